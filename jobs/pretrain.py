"""`zeroth pretrain`: a base model from documents."""

from __future__ import annotations

import itertools
import json
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import config, console
from jobs.config import PretrainRecipe, RecipeError
from jobs.grpo import DryRun, Overrides, RecipeArgument, Resume, resolved_text

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

    config.check_run_dir(recipe.run.dir, resume=resume)
    shape = from_recipe({"vocab_size": recipe.data.vocab_size, **recipe.model}, "[model]")
    return shape, documents(recipe.data.documents)


def documents(path: Path) -> list[str]:
    """The texts of a JSONL file. Raises RecipeError with file and line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file of documents") from None
    texts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise RecipeError(f'{path}:{number}: a document is one JSON object a line, {{"text": "..."}}')
        texts.append(text)
    if not texts:
        raise RecipeError(f"{path}: the file holds no document")
    return texts


def batches(sizes: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Indices of documents, shuffled anew each epoch, ``batch`` at a time, without end."""
    for epoch in itertools.count():
        order = list(range(sizes))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for start in range(0, sizes - batch + 1, batch) if sizes >= batch else [0]:
            yield order[start : start + batch]


def train(recipe: PretrainRecipe, *, resume: bool) -> Path:
    """A whole run; returns the folder of the last checkpoint."""
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from rl.journal import Journal, Progress, write_checkpoint

    shape, texts = checked(recipe, resume=resume)
    torch.set_num_threads(recipe.train.threads or torch.get_num_threads())
    recipe.run.dir.mkdir(parents=True, exist_ok=True)
    config.write(recipe, recipe.run.dir / "recipe.toml")
    journal = Journal(recipe.run.dir, recipe.run.keep_checkpoints)
    found = journal.resume()
    policy = make_policy(recipe, shape, texts)
    start = 0
    if found:
        policy.restore(found[0])
        start = found[1].step
    else:
        journal.forget_after(-1)
    encoded = policy.tokenizer.encode_batch(texts)
    stream = itertools.islice(
        batches(len(texts), recipe.train.batch_documents, recipe.run.seed), start, recipe.train.steps
    )
    stopping: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: stopping.append(number))
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    step = start
    with console.progress() as bar, SummaryWriter(str(recipe.run.dir)) as board:
        task = bar.add_task("pretrain", total=recipe.train.steps, completed=start, note="")
        for step, chosen in enumerate(stream, start + 1):
            metrics = update(policy, [encoded[i] for i in chosen], recipe)
            journal.metrics(step, metrics)
            for name, value in metrics.items():
                board.add_scalar(name, value, step)
            note = f"loss {metrics['loss']:.3f}"
            bar.update(task, completed=step, note=note)
            console.tell("pretrain", step, recipe.train.steps, note, every=100)
            if recipe.run.checkpoint_every and step % recipe.run.checkpoint_every == 0:
                write_checkpoint(journal, Progress(step, step), policy.save)
            if stopping:
                break
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    folder = write_checkpoint(journal, Progress(step, step), policy.save)
    console.say(f"checkpoint {folder}")
    if stopping and step < recipe.train.steps:
        raise console.Interrupted(step, recipe.train.steps)
    return folder


def make_policy(recipe: PretrainRecipe, shape: ModelConfig, texts: Sequence[str]) -> Policy:
    from dataclasses import replace

    from jobs.parts import optimizer_settings
    from model.policy import Policy
    from model.tokenizer import train as train_tokenizer
    from model.transformer import build

    tokenizer: Tokenizer = train_tokenizer(texts[:20000], recipe.data.vocab_size)
    shape = replace(shape, bos_token_id=tokenizer.bos, eos_token_id=tokenizer.eos)
    settings = optimizer_settings(recipe.optimizer)
    return Policy(build(shape, recipe.run.seed), tokenizer, settings, recipe.precision.train)


def update(policy: Policy, sequences: Sequence[list[int]], recipe: PretrainRecipe) -> Metrics:
    """One optimizer step on whole documents laid end to end, each closed by the end token."""
    import torch

    from model.loss import pretrain_loss
    from model.segments import Segments

    started = time.perf_counter()
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
        "seconds": time.perf_counter() - started,
    }
