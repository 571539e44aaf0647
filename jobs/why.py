"""`zeroth why`: where a sample of a run came from, and, where its weights are still there, the proof."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from jobs import config, console
from jobs.config import GrpoRecipe, RecipeError


def command(
    run_dir: Annotated[Path, typer.Argument(help="A run directory of `zeroth grpo`.")],
    sample_id: Annotated[str, typer.Argument(help="problem/epoch/copy, as in samples.jsonl.")],
    reproduce: Annotated[bool, typer.Option("--reproduce", help="Sample it again from the same weights.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")] = False,
) -> None:
    """Say where a sample came from: its problem, seed, weights, scores and place in training."""
    found = why(run_dir, sample_id)
    if reproduce:
        found["reproduced"] = again(run_dir, found)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(show_header=False, title=sample_id)
    for name, value in found.items():
        if value is not None:
            table.add_row(name, Text(value if isinstance(value, str) else json.dumps(value)))
    console.console.print(table)


def why(run_dir: Path, sample_id: str) -> dict[str, Any]:
    """What the run's files say of a sample. Raises RecipeError where they do not hold it."""
    from rl.rollout import sample_seed

    recipe = recipe_of(run_dir)
    sample = sample_of(run_dir, sample_id)
    problem, epoch, copy = sample_id.rsplit("/", 2)
    return {
        "id": sample_id,
        "problem": problem,
        "epoch": int(epoch),
        "copy": int(copy),
        "prompt": sample["prompt"],
        "text": sample["text"],
        "seed": sample_seed(recipe.run.seed, sample_id),
        "versions": sample["versions"],
        "weights": {str(version): weights_of(run_dir, recipe, version) for version, _ in sample["versions"]},
        "precision": recipe.precision.rollout,
        "finish_reason": sample["finish_reason"],
        "score": sample["score"],
        "status": sample["status"],
        "parts": sample["parts"],
        "detail": sample["detail"],
        "advantage": sample["advantage"],
        "step": sample["step"],
        "trained": sample["trained"],
        "problems": str(recipe.data.train),
        "recipe": str(run_dir / "recipe.toml"),
    }


def recipe_of(run_dir: Path) -> GrpoRecipe:
    path = run_dir / "recipe.toml"
    if not path.is_file() or not (run_dir / "samples.jsonl").is_file():
        raise RecipeError(f"{run_dir}: not a run directory of zeroth grpo, it has no recipe.toml with a samples.jsonl")
    return config.read(path, GrpoRecipe)


def sample_of(run_dir: Path, sample_id: str) -> dict[str, Any]:
    """The sample's line. Raises RecipeError that names ids that the run has where it has not this one."""
    from rl.journal import read

    near: list[str] = []
    for line in read(run_dir / "samples.jsonl"):
        if line["id"] == sample_id:
            return line
        if len(near) < 3 and line["problem"] == sample_id.rsplit("/", 2)[0]:
            near.append(line["id"])
    hint = f"; of this problem it has {', '.join(near)}" if near else "; an id is problem/epoch/copy"
    raise RecipeError(f"{run_dir / 'samples.jsonl'}: no sample {sample_id!r}{hint}")


def weights_of(run_dir: Path, recipe: GrpoRecipe, version: int) -> str | None:
    """The checkpoint that holds a weight version; None where none does any more."""
    import torch

    if version == 0:
        return str(recipe.base) if recipe.base.is_dir() else None
    for folder in sorted((run_dir / "checkpoints").glob("step-*")):
        state = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True, mmap=True)
        if state["updates"] == version:
            return str(folder)
    return None


def again(run_dir: Path, found: dict[str, Any]) -> bool:
    """Whether the sample's weights, prompt and seed give its text once more. Raises RecipeError where its weights are
    gone or are of several versions."""
    from jobs import parts
    from model import checkpoint, publish
    from model.engine import Request
    from rl.problems import Draw, Problem

    recipe = recipe_of(run_dir)
    weights: Sequence[str | None] = list(found["weights"].values())
    if len(weights) != 1 or weights[0] is None:
        raise RecipeError(
            f"{found['id']} cannot be sampled again: its weight versions are {list(found['weights'])}, and there are "
            f"{run_dir / 'checkpoints'} and its base; run.checkpoint_every and run.keep_checkpoints say how many"
        )
    model, tokenizer = checkpoint.load(Path(weights[0]))
    engine = parts.make_engine(Path(weights[0]), 1, recipe.cluster.rollout_threads)
    draw = Draw(Problem(found["problem"], _prompt(found["prompt"]), "", {}), found["epoch"])
    request = Request(parts.encoder(tokenizer, recipe.data.template)(draw), (found["seed"],))

    async def sample() -> str:
        await engine.publish(publish.publish(model, int(next(iter(found["weights"]))), recipe.precision.rollout))
        ((completion,),) = await engine.generate([request], parts.rollout_settings(recipe).sampling)
        return completion.text

    return asyncio.run(sample()) == str(found["text"])


def _prompt(prompt: Any) -> Any:
    return prompt if isinstance(prompt, str) else tuple(prompt)
