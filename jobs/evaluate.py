"""`zeroth eval`: accuracy of a checkpoint on a suite of problems."""

from __future__ import annotations

import asyncio
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from jobs import console
from jobs.config import RecipeError
from rl.problems import R1_ZERO

CHUNK = 64
"""Problems that are sampled and scored together, between two moves of the progress bar."""


def command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    suite: Annotated[Path, typer.Option("--suite", help="A problem file (JSONL).")],
    samples: Annotated[int, typer.Option("--samples", min=1, help="Completions a problem.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.6,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens a completion.")] = 1024,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp8.")] = "fp32",
    template: Annotated[
        str | None, typer.Option(help="Holds {prompt}; by default that of the checkpoint's run.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")] = False,
) -> None:
    """Sample each problem of a suite and report the mean score by reward."""
    result = evaluate(
        checkpoint,
        suite,
        samples,
        temperature,
        top_p,
        max_tokens,
        precision,
        template or trained_with(checkpoint),
        seed,
    )
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    table = Table("reward", "problems", f"pass@1 (mean of {samples})", "standard error", "not judged")
    for name, row in result["rewards"].items():
        table.add_row(
            name, str(row["problems"]), f"{row['mean']:.1%}", f"{row['standard_error']:.1%}", str(row["not_judged"])
        )
    console.console.print(table)


def trained_with(checkpoint: Path) -> str:
    """The template of the run that wrote this checkpoint, or R1-Zero's."""
    template = recorded_template(checkpoint)
    return R1_ZERO if template is None else template


def recorded_template(checkpoint: Path) -> str | None:
    """data.template of the run that wrote this checkpoint (run/checkpoints/step-N); None where there is none."""
    recipe = checkpoint.resolve().parent.parent / "recipe.toml"
    if not recipe.is_file():
        return None
    template = tomllib.loads(recipe.read_text()).get("data", {}).get("template")
    return None if template is None else str(template)


def evaluate(
    checkpoint: Path,
    suite: Path,
    samples: int,
    temperature: float,
    top_p: float,
    max_tokens: int,
    precision: str,
    template: str,
    seed: int,
) -> dict[str, Any]:
    """Mean score, standard error over problems and counts, by reward. Samples that could not be judged are counted
    and left out."""
    if precision not in ("fp32", "bf16", "fp8"):
        raise RecipeError(f"--precision {precision!r}: it is fp32, bf16 or fp8")
    from jobs import parts
    from model import checkpoint as checkpoints
    from model import publish
    from model.engine import Sampling
    from model.native import NativeEngine
    from rl.judge import Judge
    from rl.problems import load

    problems = load(suite)
    model, tokenizer = checkpoints.load(checkpoint)
    parts.check_lengths(problems, tokenizer, template, model.c.max_position_embeddings, str(suite))
    judge = Judge({problem.reward for problem in problems}, {})
    judge.check(problems, str(suite))
    engine = NativeEngine(model.c, tokenizer)
    publish.accept(engine.model, publish.publish(model, 0, precision))  # type: ignore[arg-type]

    async def run() -> dict[str, parts.Tally]:
        try:
            sampling = Sampling(temperature, top_p, max_tokens)
            encode = parts.encoder(tokenizer, template)
            return await parts.tallies(problems, encode, engine, judge, sampling, samples, seed, CHUNK, advance)
        finally:
            await judge.close()

    with console.progress() as bar:
        task = bar.add_task("eval", total=len(problems), note=f"{samples} a problem")

        def advance(done: int) -> None:
            bar.advance(task, done)

        found = asyncio.run(run())
    return {
        "checkpoint": str(checkpoint),
        "suite": str(suite),
        "samples": samples,
        "temperature": temperature,
        "top_p": top_p,
        "rewards": {name: tally.summary() for name, tally in found.items()},
    }
