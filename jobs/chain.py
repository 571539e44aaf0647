"""`zeroth chain`: pretraining, fine-tuning, a reward model, GRPO and the evaluation of every checkpoint, in one recipe.

A stage's table is the recipe of its command. What comes of one stage goes into the next: `base`, and the reward model
of the reward `learned`. Stages may be left out at either end; the same call continues a chain that was interrupted.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import config, console
from jobs.config import ChainRecipe, GrpoRecipe, PretrainRecipe, RecipeError, RewardModelRecipe, SftRecipe
from jobs.files import FolderError, changes, held, write_whole
from jobs.grpo import resolved_text
from jobs.options import DryRun, Overrides, RecipeArgument

KINDS: dict[str, Any] = {
    "pretrain": PretrainRecipe, "sft": SftRecipe, "reward_model": RewardModelRecipe, "grpo": GrpoRecipe
}  # fmt: skip
"""The stages, in order."""

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Stage:
    """``made`` is the checkpoint that the stage ends in. ``settings`` are what the chain's recipe says of it."""

    name: str
    recipe: Any
    settings: dict[str, Any]

    @property
    def made(self) -> Path:
        folder: Path = self.recipe.run.dir / "checkpoints" / f"step-{self.recipe.train.steps}"
        return folder


def command(recipe: RecipeArgument, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Run several trainers after each other, and evaluate what each of them made. The same call goes on."""
    path = config.find(recipe)
    resolved = config.read(path, ChainRecipe, overrides or [])
    if dry_run:
        for stage in stages(resolved, str(path)):
            sys.stdout.write(f"# {stage.name}\n{resolved_text(stage.recipe)}\n")
        return
    run(resolved, str(path))


def stages(chain: ChainRecipe, source: str) -> list[Stage]:
    """The stages that the recipe has, each with what earlier ones make. Raises RecipeError."""
    found: dict[str, Stage] = {}
    for name, kind in KINDS.items():
        values = copy.deepcopy(getattr(chain, name))
        if not values:
            continue
        values["run"] = {"dir": str(chain.dir / name), "seed": chain.seed, **values.get("run", {})}
        before = [stage.made for stage in found.values() if stage.name != "reward_model"]
        if before:
            values.setdefault("base", str(before[-1]))
        if name == "grpo" and "reward_model" in found:
            settings = values.setdefault("reward", {}).setdefault("settings", {}).setdefault("learned", {})
            settings.setdefault("model", str(found["reward_model"].made))
        found[name] = Stage(
            name, config.build(values, kind, f"{source} [{name}]"), {"seed": chain.seed, **getattr(chain, name)}
        )
    if not found:
        raise RecipeError(f"{source}: a chain has one of the tables {', '.join(KINDS)}")
    if len({path.stem for path in chain.eval.suites}) < len(chain.eval.suites):
        raise RecipeError(f"{source}: eval.suites: files of different names are wanted, since the table names them so")
    return list(found.values())


def run(chain: ChainRecipe, source: str) -> None:
    """Every stage that is not done, the evaluation, and the table."""
    from jobs.bench import record

    planned = stages(chain, source)
    with held(chain.dir):
        check_settings(planned, chain.dir / SETTINGS)
        seconds: dict[str, float] = {}
        started = time.monotonic()
        for stage in planned:
            if stage.made.exists():
                continue
            console.say(f"{stage.name}: {stage.recipe.run.dir}")
            began = time.monotonic()
            go_on(trainer(stage.name), stage.recipe)
            seconds[stage.name] = time.monotonic() - began
        began = time.monotonic()
        result: dict[str, Any] = {"seed": chain.seed, "checkpoints": dict(evaluated(chain, planned))}
        seconds["eval"] = time.monotonic() - began
        seconds["all"] = time.monotonic() - started
        for stage in planned:
            if stage.name == "reward_model":
                result["reward_model"] = json.loads((stage.made / "reward.json").read_text())["held_out"]
        show(result, seconds)
        record.write(record.stamped({**result, "seconds": seconds}), chain.dir / "chain.json")
        console.say(f"everything is in {chain.dir}; the table as JSON: {chain.dir / 'chain.json'}")


def check_settings(planned: list[Stage], path: Path) -> None:
    """Keeps what each stage is made with. Raises FolderError where a stage would be made with something else now, and
    either is done or was gone on from."""
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for i, stage in enumerate(planned):
        used = stage.made.exists() or any(config.has_begun(later.recipe.run.dir) for later in planned[i + 1 :])
        if used and (other := changes(before.get(stage.name, stage.settings), stage.settings)):
            raise FolderError(
                f"{path.parent}: its stage {stage.name} was made with other settings ({'; '.join(other)}): set them "
                "back, or name another dir"
            )
    write_whole(path, json.dumps({stage.name: stage.settings for stage in planned}, indent=2) + "\n")


def trainer(name: str) -> Callable[..., Any]:
    from jobs import grpo, pretrain, reward_model, sft

    trainers: dict[str, Any] = {"pretrain": pretrain, "sft": sft, "reward_model": reward_model, "grpo": grpo}
    return trainers[name].train  # type: ignore[no-any-return]


def go_on(train: Callable[..., Any], recipe: Any) -> None:
    """Begins a trainer's run or continues it, for a command that is itself continued by calling it again."""
    try:
        train(recipe, resume=config.has_begun(recipe.run.dir))
    except console.Interrupted as stopped:
        raise console.Interrupted(stopped.step, stopped.total, "the same command goes on") from None


def evaluated(chain: ChainRecipe, planned: list[Stage]) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each policy of the chain its figures on each suite: the mean with its interval, and the mean length."""
    from jobs import evaluate
    from model.engine import Sampling
    from rl.problems import load

    table = chain.eval
    problems = {path.stem: load(path) for path in table.suites}
    sampling = Sampling(table.temperature, table.top_p, table.max_tokens)
    for stage in planned if problems else []:
        if stage.name == "reward_model":
            continue
        console.say(f"eval: {stage.made}")
        evaluation = evaluate.of_checkpoint(
            stage.made, problems, table.samples, sampling, chain.seed, table.template, table.precision, 512
        )
        yield stage.name, evaluate.evaluate(evaluation, {}, chain.dir / "eval" / stage.name)["suites"]


def show(result: dict[str, Any], seconds: dict[str, float]) -> None:
    from rich.table import Table

    rows = result["checkpoints"]
    columns = [(suite, reward) for suite, found in next(iter(rows.values()), {}).items() for reward in found]
    table = Table("checkpoint", *(f"{suite}: {reward}" for suite, reward in columns), title=f"{seconds['all']:.0f} s")
    for name, found in rows.items():
        cells = [found[suite][reward]["mean"] for suite, reward in columns]
        table.add_row(name, *(f"{cell['value']:.3f} ({cell['low']:.3f} to {cell['high']:.3f})" for cell in cells))
    console.console.print(table)
