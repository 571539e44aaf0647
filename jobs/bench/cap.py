"""`zeroth bench cap`: GRPO on a reward model alone, with and without the cap, against the rule that it never saw.

The reward model is a chain's (`zeroth quickstart --full`). Its preferences were made by a rule (`jobs/working.py`),
which judges held-out problems as training goes on and is told to nobody. The rival is the run without a cap.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from jobs import chain, config, console
from jobs.bench import record
from jobs.config import ChainRecipe, GrpoRecipe
from jobs.options import Out

GOLD = "held_out/sampled/jobs.working:shown"
CURVES = {"score": "reward/accuracy/raw", "capped": "reward/accuracy/capped", "tokens": "response_tokens", "rule": GOLD}
"""What is kept of the metrics: the model's own score, the share that the cap holds back, the length, the hidden
rule."""
Curves = dict[str, tuple[list[int], list[float]]]


def command(
    made: Annotated[Path, typer.Argument(help="A folder that `zeroth quickstart --full` made.")],
    steps: Annotated[int, typer.Option(min=1)] = 100,
    quantile: Annotated[float, typer.Option(min=0.01, max=1.0, help="Of the runs with a cap.")] = 0.3,
    kl: Annotated[float, typer.Option(min=0.0, help="Of all runs: loss.kl, to the checkpoint they start from.")] = 0.05,
    lr: Annotated[float, typer.Option()] = 3e-4,
    seeds: Annotated[int, typer.Option(min=1, help="Runs with a cap and without.")] = 3,
    picture: Annotated[Path | None, typer.Option(help="A PNG of all runs.")] = None,
    out: Out = None,
) -> None:
    """Train on a reward model alone, with and without a cap, and watch the rule that it stands for."""
    started = time.monotonic()
    runs: dict[str, list[Curves]] = {"no cap": [], f"cap at {quantile:.0%}": []}
    for seed in range(seeds):
        for name, cap in zip(runs, (0.0, quantile), strict=True):
            recipe = recipe_of(made, steps, cap, kl, lr, seed)
            if not (recipe.run.dir / "checkpoints" / f"step-{steps}").exists():
                console.say(f"{name}: {recipe.run.dir}")
                chain.go_on(chain.trainer("grpo"), recipe)
            runs[name].append(curves(recipe.run.dir / "metrics.jsonl"))
    results = {"steps": steps, "kl": kl, "lr": lr, "runs": runs, "seconds": time.monotonic() - started}
    results["summary"] = {name: [summary(each) for each in found] for name, found in runs.items()}
    if picture is not None:
        draw(runs, picture)
    record.emit(record.stamped(results), out)


def recipe_of(made: Path, steps: int, cap: float, kl: float, lr: float, seed: int) -> GrpoRecipe:
    """GRPO on the chain's SFT checkpoint with nothing but its reward model, and a KL to where it starts."""
    path = made / "chain.toml"
    stages = {stage.name: stage for stage in chain.stages(config.read(path, ChainRecipe), str(path))}
    grpo: GrpoRecipe = stages["grpo"].recipe
    values = {
        "base": str(stages["sft"].made),
        "run": {
            "dir": str(made / f"cap-{cap:g}-kl-{kl:g}-seed-{seed}"),
            "seed": seed,
            "checkpoint_every": 50,
            "keep_checkpoints": 1,
        },
        "data": {
            "train": str(made / "problems" / "learned.jsonl"),
            "held_out": str(made / "problems" / "working.jsonl"),
            "template": grpo.data.template,
        },
        "train": {"steps": steps, "micro_batch_tokens": grpo.train.micro_batch_tokens},
        "optimizer": {"lr": lr, "warmup_steps": 5},
        "rollout": grpo.rollout.model_dump(),
        "loss": {"kl": kl, "reference_every": steps},
        "reward": {"settings": {"learned": {"model": str(stages["reward_model"].made), "cap_quantile": cap}}},
        "evaluate": {"every": 10, "problems": 200},
    }
    return config.build(values, GrpoRecipe, "bench cap")


def curves(path: Path) -> Curves:
    """By curve, its steps and values."""
    found: Curves = {name: ([], []) for name in CURVES}
    for line in path.read_text().splitlines():
        metrics: Mapping[str, Any] = json.loads(line)
        for name, metric in CURVES.items():
            if metric in metrics:
                found[name][0].append(metrics["step"])
                found[name][1].append(round(metrics[metric], 4))
    return found


def summary(found: Curves) -> dict[str, float]:
    """The rule as the run starts, at its best and at its end; and of the last ten steps the model's score and the
    share that the cap holds back."""
    rule, score, capped = (found[name][1] for name in ("rule", "score", "capped"))
    means = {"score": fmean(score[-10:]), "capped": fmean(capped[-10:])}
    return {"start": rule[0], "best": max(rule), "end": rule[-1], **means}


def draw(runs: Mapping[str, Sequence[Curves]], path: Path) -> None:
    """The mean over seeds and, shaded, the spread from the lowest to the highest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained", dpi=110)
    panels = {"score": "the reward model's score", "rule": "the rule that it was made from, held-out problems"}
    for axes, (curve, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, found in runs.items():
            steps = found[0][curve][0]
            values = list(zip(*(each[curve][1] for each in found), strict=True))
            (line,) = axes.plot(steps, [fmean(each) for each in values], label=name)
            low, high = [min(each) for each in values], [max(each) for each in values]
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    figure.suptitle(f"GRPO on a reward model alone, {len(next(iter(runs.values())))} seeds", fontsize=11)
    figure.savefig(path)
