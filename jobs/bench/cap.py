"""`zeroth bench cap`: GRPO on a reward model alone, with and without the cap, against the rule that it never saw.

The reward model is a chain's (`zeroth quickstart --full`). Its preferences were made by a rule (`jobs/working.py`),
which judges held-out problems as training goes on and is told to nobody. The rival is the run without a cap.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import chain, config, console
from jobs.bench import record
from jobs.config import ChainRecipe, GrpoRecipe

GOLD = "held_out/sampled/jobs.working:shown"
CURVES = {"score": "reward/accuracy/raw", "capped": "reward/accuracy/capped", "tokens": "response_tokens", "rule": GOLD}
"""What is kept of the metrics: the model's own score, the share that the cap holds back, the length, the hidden
rule."""


def command(
    made: Annotated[Path, typer.Argument(help="A folder that `zeroth quickstart --full` made.")],
    steps: Annotated[int, typer.Option(min=1)] = 100,
    quantile: Annotated[float, typer.Option(min=0.01, max=1.0, help="Of the run with a cap.")] = 0.9,
    lr: Annotated[float, typer.Option()] = 3e-4,
    picture: Annotated[Path | None, typer.Option(help="A PNG of both runs.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the JSON goes as well.")] = None,
) -> None:
    """Train on a reward model alone, with and without a cap, and watch the rule that it stands for."""
    started = time.monotonic()
    runs = {}
    for name, cap in (("no cap", 0.0), (f"cap at {quantile:.0%}", quantile)):
        recipe = recipe_of(made, steps, cap, lr)
        if not (recipe.run.dir / "checkpoints" / f"step-{steps}").exists():
            console.say(f"{name}: {recipe.run.dir}")
            chain.trainer("grpo")(recipe, resume=recipe.run.dir.exists())
        runs[name] = curves(recipe.run.dir / "metrics.jsonl")
    results = {"steps": steps, "lr": lr, "runs": runs, "seconds": time.monotonic() - started}
    if picture is not None:
        draw(runs, picture)
    record.emit(record.stamped(results), out)


def recipe_of(made: Path, steps: int, cap: float, lr: float) -> GrpoRecipe:
    """GRPO on the chain's SFT checkpoint with nothing but its reward model: no rule, no KL."""
    path = made / "chain.toml"
    stages = {stage.name: stage for stage in chain.stages(config.read(path, ChainRecipe), str(path))}
    grpo: GrpoRecipe = stages["grpo"].recipe
    values = {
        "base": str(stages["sft"].made),
        "run": {"dir": str(made / f"cap-{cap:g}"), "checkpoint_every": 50, "keep_checkpoints": 1},
        "data": {
            "train": str(made / "problems" / "learned.jsonl"),
            "held_out": str(made / "problems" / "working.jsonl"),
            "template": grpo.data.template,
        },
        "train": {"steps": steps, "micro_batch_tokens": grpo.train.micro_batch_tokens},
        "optimizer": {"lr": lr, "warmup_steps": 5},
        "rollout": grpo.rollout.model_dump(),
        "loss": {"kl": 0.0},
        "reward": {"settings": {"learned": {"model": str(stages["reward_model"].made), "cap_quantile": cap}}},
        "evaluate": {"every": 10, "problems": 100},
    }
    return config.build(values, GrpoRecipe, "bench cap")


def curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """By curve, its steps and values."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in CURVES}
    for line in path.read_text().splitlines():
        metrics: Mapping[str, Any] = json.loads(line)
        for name, metric in CURVES.items():
            if metric in metrics:
                found[name].append((metrics["step"], metrics[metric]))
    return found


def draw(runs: Mapping[str, Mapping[str, list[tuple[int, float]]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained", dpi=110)
    panels = {"score": "the reward model's score", "rule": "the rule that it was made from, held-out problems"}
    for axes, (curve, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, found in runs.items():
            axes.plot(
                *zip(*found[curve], strict=True), label=name, marker="o" if curve == "rule" else None, markersize=3
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    figure.suptitle("GRPO on a reward model alone", fontsize=11)
    figure.savefig(path)
