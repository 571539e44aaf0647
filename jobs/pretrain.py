"""`zeroth pretrain`: a base model from documents."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import config, supervised
from jobs.config import PretrainRecipe, RecipeError
from jobs.grpo import resolved_text
from jobs.options import DryRun, Overrides, RecipeArgument, Resume
from rl import jsonl

if TYPE_CHECKING:
    from model.config import ModelConfig
    from model.policy import Policy
    from model.tokenizer import Tokenizer
    from rl.step import Metrics


def command(
    recipe: RecipeArgument, overrides: Overrides = None, dry_run: DryRun = False, resume: Resume = False
) -> None:
    """Train a base model on documents with next-token (and multi-token) prediction."""
    path = config.find(recipe)
    resolved = config.read(path, PretrainRecipe, overrides or [])
    if dry_run:
        checked(resolved, resume=resume)
        sys.stdout.write(resolved_text(resolved))
        return
    train(resolved, resume=resume)


def checked(recipe: PretrainRecipe, *, resume: bool) -> tuple[ModelConfig, list[str]]:
    """The model's shape and the documents, or an error for the first thing that cannot be used."""
    from model.config import from_recipe

    config.check_run(recipe.run, resume=resume)
    shape = from_recipe({"vocab_size": recipe.data.vocab_size, **recipe.model}, "[model]")
    return shape, documents(recipe.data.documents)


def documents(path: Path) -> list[str]:
    """The texts of a JSONL file. Raises RecipeError with file and line."""
    texts = []
    for place, line in jsonl.lines(path, "documents"):
        text = line.get("text")
        if not isinstance(text, str):
            raise RecipeError(f'{place}: a document is one JSON object a line, {{"text": "..."}}')
        texts.append(text)
    return texts


def train(recipe: PretrainRecipe, *, resume: bool) -> Path:
    """A whole run; returns the folder of the last checkpoint."""
    shape, texts = checked(recipe, resume=resume)
    with supervised.begun(recipe.run, recipe.train.threads, resume=resume):
        policy = make_policy(recipe, shape, texts)
        encoded = policy.tokenizer.encode_batch(texts)
        course = supervised.Course("pretrain", recipe, recipe.train.steps, len(texts), recipe.train.batch_documents)
        return supervised.train(course, policy, lambda chosen: update(policy, [encoded[i] for i in chosen], recipe))


def make_policy(recipe: PretrainRecipe, shape: ModelConfig, texts: Sequence[str]) -> Policy:
    from dataclasses import replace

    from jobs.parts import optimizer_settings
    from model.policy import Policy
    from model.tokenizer import train as train_tokenizer
    from model.transformer import build

    tokenizer: Tokenizer = train_tokenizer(texts[:20000], recipe.data.vocab_size)
    shape = replace(shape, bos_token_id=tokenizer.bos, eos_token_id=tokenizer.eos)
    settings = optimizer_settings(recipe.optimizer)
    model, precision = build(shape, recipe.run.seed), recipe.precision
    return Policy(model, tokenizer, settings, precision.train, recompute=precision.recompute)


def update(policy: Policy, sequences: Sequence[list[int]], recipe: PretrainRecipe) -> Metrics:
    """One optimizer step on whole documents laid end to end, each closed by the end token."""
    import torch

    from model.loss import pretrain_loss
    from model.segments import Segments

    limit = min(recipe.train.sequence_tokens, policy.model.c.max_position_embeddings)
    cut = sorted(([*ids, policy.tokenizer.eos][:limit] for ids in sequences), key=len)
    segments = Segments.of([len(ids) for ids in cut], policy.model.device)
    tokens = torch.tensor([token for ids in cut for token in ids], device=policy.model.device)
    loss = pretrain_loss(
        policy.wrapped,
        policy.model,
        tokens,
        segments,
        mtp_weight=recipe.train.mtp_weight,
        balance=recipe.train.balance,
        balance_over=recipe.train.balance_over,
    )
    policy.backward(loss.total, loss.routing)
    return {
        "loss": float(loss.next_token.detach()),
        **policy.apply(),
        **({"mtp_loss": float(loss.further.detach())} if loss.further is not None else {}),
        "tokens": float(len(tokens)),
    }
