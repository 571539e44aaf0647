"""`zeroth bench balance`: three ways to balance experts, in small: the loss-free routing bias (arXiv:2408.15664), the
sequence-wise and the batch-wise auxiliary loss (DeepSeek-V3 report, section 4.5.3).

The runs of one seed start from the same weights and see the same batches, so that ways are compared in pairs. Nothing
else differs: the bias runs pay no auxiliary loss, the others move no bias.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import math
import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import console
from jobs.config import PretrainRecipe, RecipeError, build
from jobs.options import AsJson, Out

if TYPE_CHECKING:
    from model.policy import Policy
    from model.tokenizer import Tokenizer

SEQUENCE, BATCH = 128, 16
PIECE = 400
"""Characters; the sequence length cuts what is left of a piece."""
BOOK = 120_000
"""Characters taken of one document, so that no author rules."""
HELD_OUT = 256
LAST_STEPS = 50

WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "loss-free": {"optimizer": {"bias_speed": 3e-3}, "train": {"balance": 0.0}},
    "loss-free, slow": {"optimizer": {"bias_speed": 1e-3}, "train": {"balance": 0.0}},
    "sequence-wise": {"optimizer": {"bias_speed": 0.0}, "train": {"balance": 1e-2, "balance_over": "sequence"}},
    "batch-wise": {"optimizer": {"bias_speed": 0.0}, "train": {"balance": 1e-2, "balance_over": "batch"}},
}
"""The bias moves three times as fast as in long runs ("slow": as fast), and the losses weigh so much, that the batches
of a short run come to be about as balanced by each."""

MODEL = {
    "hidden_size": 96, "intermediate_size": 192, "moe_intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "kv_lora_rank": 48, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 32,
    "n_routed_experts": 16, "num_experts_per_tok": 4, "initializer_range": 0.03, "max_position_embeddings": SEQUENCE,
    "vocab_size": 1024,
}  # fmt: skip


def command(
    documents: Annotated[Path, typer.Option(help='JSONL of {"text": "..."}, gzip or plain.')],
    seeds: Annotated[int, typer.Option(min=2, help="Runs of each way.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Updates of a run, of 16 sequences of 128 tokens.")] = 300,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Validation loss and expert load of three ways to balance experts, over several seeds."""
    from rich.table import Table

    from jobs.bench import record

    results = record.stamped(measure(documents, seeds, steps))
    if as_json or out:
        record.emit(results, out)
    table = Table("way", "validation loss", "less than sequence-wise", "MaxVio, held out", "MaxVio, batch")
    for name, row in results["ways"].items():
        shown = (row["loss"], row["below_sequence_wise"], row["max_violation"], row["max_violation_batch"])
        table.add_row(name, *(f"{each['mean']:.4f} ± {each['error']:.4f}" for each in shown))
    console.console.print(table)


def measure(documents: Path, seeds: int, steps: int) -> dict[str, Any]:
    texts = pieces(documents)
    if len(texts) < 2 * HELD_OUT:
        raise RecipeError(
            f"{documents}: {len(texts)} pieces of {PIECE} characters are too few; {2 * HELD_OUT} are needed"
        )
    with tempfile.TemporaryDirectory() as scratch:
        prepare(texts, Path(scratch))
        cases = list(itertools.product(range(seeds), WAYS))
        workers = min(len(cases), len(os.sched_getaffinity(0)))
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool, console.progress() as bar:
            task = bar.add_task("balance", total=len(cases), note="")
            jobs = [pool.submit(run, Path(scratch), way, seed, steps) for seed, way in cases]
            runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for (_, way), job in zip(cases, jobs, strict=True):
                runs[way].append(job.result())
                bar.advance(task)
    return {
        "documents": {"name": documents.name, "sha256": hashlib.sha256(documents.read_bytes()).hexdigest()},
        "shape": {
            "model": MODEL,
            "steps": steps,
            "tokens_a_step": BATCH * SEQUENCE,
            "seeds": seeds,
            "held_out": HELD_OUT,
        },
        "settings": WAYS,
        "ways": {way: summary(runs[way], runs["sequence-wise"]) for way in WAYS},
        "runs": runs,
    }


def summary(runs: Sequence[dict[str, float]], others: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds with their standard errors; ``below_sequence_wise`` of the differences within a seed."""
    below = [other["loss"] - one["loss"] for one, other in zip(runs, others, strict=True)]
    return {
        **{name: mean_and_error([each[name] for each in runs]) for name in runs[0]},
        "below_sequence_wise": mean_and_error(below),
    }


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "error": statistics.stdev(values) / math.sqrt(len(values))}


def pieces(path: Path) -> list[str]:
    """The documents' beginnings cut into pieces, in an order of its own. Raises RecipeError."""
    from jobs.pretrain import documents

    if path.suffix != ".gz":
        texts = documents(path)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            plain = Path(scratch) / path.stem
            try:
                plain.write_bytes(gzip.decompress(path.read_bytes()))
            except (OSError, EOFError) as error:
                raise RecipeError(f"{path}: not a gzip file that can be read ({error})") from None
            texts = documents(plain)
    cut = [text[i : i + PIECE] for text in texts for i in range(0, min(len(text), BOOK) - PIECE + 1, PIECE)]
    random.Random(0).shuffle(cut)
    return cut


def prepare(texts: Sequence[str], folder: Path) -> None:
    """The tokenizer and the encoded pieces, for the runs."""
    from model.tokenizer import train

    tokenizer = train(texts[HELD_OUT:5000], int(MODEL["vocab_size"]))
    tokenizer.save(folder)
    encoded = tokenizer.encode_batch(texts)
    (folder / "pieces.json").write_text(json.dumps([encoded[:HELD_OUT], encoded[HELD_OUT:]]))


def run(folder: Path, way: str, seed: int, steps: int) -> dict[str, float]:
    """One training run; its held-out loss in nats a token, and MaxVio there and in its last batches, the mean over
    layers."""
    import torch

    from jobs.parts import optimizer_settings
    from jobs.pretrain import update
    from jobs.supervised import Course
    from model import tokenizer as tokenizers
    from model.config import from_recipe
    from model.policy import Policy
    from model.transformer import build as build_model

    torch.set_num_threads(1)
    recipe = recipe_of(way, seed, steps)
    held_out, trained = json.loads((folder / "pieces.json").read_text())
    tokenizer = tokenizers.load(folder)
    policy = Policy(build_model(from_recipe(recipe.model, way), seed), tokenizer, optimizer_settings(recipe.optimizer))
    course = Course(way, recipe, steps, len(trained), recipe.train.batch_documents)
    violations: list[float] = []
    for chosen in itertools.islice(course.batches(), steps):
        metrics = update(policy, [trained[i] for i in chosen], recipe)
        violations.append(statistics.fmean(v for name, v in metrics.items() if name.startswith("max_violation/")))
    loss, violation = validate(policy, held_out, recipe, tokenizer)
    return {
        "loss": loss, "max_violation": violation, "max_violation_batch": statistics.fmean(violations[-LAST_STEPS:]),
    }  # fmt: skip


def recipe_of(way: str, seed: int, steps: int) -> PretrainRecipe:
    values: dict[str, Any] = {
        "run": {"dir": "unused", "seed": seed},
        "data": {"documents": "unused"},
        "train": {"steps": steps, "batch_documents": BATCH, "sequence_tokens": SEQUENCE, **WAYS[way]["train"]},
        "optimizer": {
            "lr": 3e-3, "warmup_steps": 20, "decay_steps": steps, "weight_decay": 0.01, **WAYS[way]["optimizer"],
        },
        "model": MODEL,
    }  # fmt: skip
    return build(values, PretrainRecipe, way)


def validate(
    policy: Policy, held_out: Sequence[list[int]], recipe: PretrainRecipe, tokenizer: Tokenizer
) -> tuple[float, float]:
    import torch

    from model.loss import pretrain_loss
    from model.moe import max_violation
    from model.segments import Segments

    rows = [[*ids, tokenizer.eos][: recipe.train.sequence_tokens] for ids in held_out]
    tokens = torch.tensor([token for ids in rows for token in ids])
    with torch.no_grad():
        loss = pretrain_loss(policy.wrapped, policy.model, tokens, Segments.of([len(ids) for ids in rows]))
    return float(loss.next_token), statistics.fmean(float(max_violation(routing.counts)) for routing in loss.routing)
