"""`zeroth quickstart`: the whole stack on a CPU or one GPU, from nothing to a small reasoner and a report.

Problems are made from a seed; a small model is pretrained on worked examples of mixed quality; GRPO with math and code
rewards makes a reasoner of it. Each part is the command that a larger run uses (`zeroth pretrain`, `zeroth grpo`), with
a recipe that is shipped. The same call continues a quickstart that was interrupted.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from jobs import chain, config, console, curriculum
from jobs.config import ChainRecipe, GrpoRecipe, PretrainRecipe, RecipeError
from jobs.files import held, same_settings
from rl import jsonl

TRAIN_PROBLEMS = 2000
HELD_OUT_PROBLEMS = 200
"""Of each kind, math and code."""


def command(
    out: Annotated[Path, typer.Option("--out", help="Where everything is written.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option("--seed", help="Seed of problems, weights and samples.")] = 0,
    full: Annotated[bool, typer.Option("--full", help="SFT and a reward model as well: the recipe `chain`.")] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="A wider model in block FP8, on one GPU.")] = False,
) -> None:
    """See R1-Zero happen: problems, a base model, GRPO, and a report."""
    if gpu:
        check_gpu(full)
    settings = {"seed": seed, "full": full, **({"gpu": True} if gpu else {})}
    with held(out):
        same_settings(out / "settings.json", settings, "a quickstart")
        if full:
            whole_chain(out, seed)
        else:
            two_stages(out, seed, "quickstart-gpu" if gpu else "quickstart")


def check_gpu(full: bool) -> None:
    import torch

    if full:
        raise RecipeError("--full is made for a CPU: leave out --gpu")
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        raise RecipeError("--gpu needs a Hopper GPU (H100, H200), and torch sees none on this machine: leave it out")


def two_stages(out: Path, seed: int, name: str) -> None:
    """Problems, a base model and GRPO by the shipped recipes of ``name``; what is there already is not made again."""
    from jobs import grpo, pretrain

    started = time.monotonic()
    seconds: dict[str, float] = {}
    base_recipe, recipe = recipes(out, seed, name)
    base = base_recipe.run.dir / "checkpoints" / f"step-{base_recipe.train.steps}"
    if not (out / "problems" / "held_out.jsonl").exists():
        console.say("1/3  making problems")
        documents = base_recipe.train.steps * base_recipe.train.batch_documents
        make_problems(out / "problems", documents, seed, recipe.data.template)
    if not base.exists():
        console.say("2/3  pretraining a base model on worked examples of mixed quality")
        began = time.monotonic()
        chain.go_on(pretrain.train, base_recipe)
        seconds["pretraining"] = time.monotonic() - began
    if not (out / "checkpoints" / f"step-{recipe.train.steps}").exists():
        console.say("3/3  reinforcement learning with verifiable rewards (GRPO)")
        began = time.monotonic()
        chain.go_on(grpo.train, recipe)
        seconds["reinforcement learning"] = time.monotonic() - began
    seconds["all"] = time.monotonic() - started
    show(out, seed, seconds)


def whole_chain(out: Path, seed: int) -> None:
    """Files for every trainer, and the shipped chain with its paths under ``out``."""
    from jobs import working

    path = out / "chain.toml"
    path.write_text(config.find("chain").read_text(encoding="utf-8").replace("runs/chain", out.as_posix()))
    recipe = config.read(path, ChainRecipe, [f"seed={seed}"])
    if not (out / "problems" / "working.jsonl").exists():
        base = recipe.pretrain["train"]
        working.write(out / "problems", seed, recipe.eval.template, base["steps"] * base["batch_documents"])
    chain.run(recipe, str(path))


def recipes(out: Path, seed: int, name: str) -> tuple[PretrainRecipe, GrpoRecipe]:
    """The two shipped recipes of ``name`` with their paths under ``out``."""
    base_dir = out / "base"
    base_recipe = config.read(
        config.find(f"{name}-pretrain"),
        PretrainRecipe,
        [f"run.dir={base_dir}", f"run.seed={seed}", f"data.documents={out / 'problems' / 'documents.jsonl'}"],
    )
    recipe = config.read(
        config.find(name),
        GrpoRecipe,
        [
            f"base={base_dir / 'checkpoints' / f'step-{base_recipe.train.steps}'}",
            f"run.dir={out}",
            f"run.seed={seed}",
            f"data.train={out / 'problems' / 'train.jsonl'}",
            f"data.held_out={out / 'problems' / 'held_out.jsonl'}",
        ],
    )
    return base_recipe, recipe


def make_problems(folder: Path, documents: int, seed: int, template: str) -> None:
    """Writes documents.jsonl, train.jsonl and held_out.jsonl; the last one's presence says that all are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = curriculum.documents(documents, seed, template)
    jsonl.write(folder / "documents.jsonl", ({"text": text} for text in texts))
    for name, count, held_out in (("train", TRAIN_PROBLEMS, False), ("held_out", HELD_OUT_PROBLEMS, True)):
        math, code = (curriculum.problems(kind, count, seed, held_out=held_out) for kind in ("math", "code"))
        jsonl.write(folder / f"{name}.jsonl", [line for pair in zip(math, code, strict=True) for line in pair])


def show(out: Path, seed: int, seconds: dict[str, float]) -> None:
    """The table that this was all for, and the same as quickstart.json. ``seconds`` of this call, by part."""
    from rich.table import Table

    from jobs.bench import record
    from jobs.report import curves
    from rl.journal import read

    found = curves(list(read(out / "metrics.jsonl")), ("held_out/",))
    accuracy = {name.removeprefix("held_out/"): [values[0], values[-1]] for name, (_, values) in found.items()}
    results = record.stamped({"seed": seed, "seconds": seconds, "accuracy": accuracy})
    record.write(results, out / "quickstart.json")
    table = Table("held-out problems", "before", "after", title=f"{seconds['all']:.0f} seconds")
    for name, (before, after) in accuracy.items():
        table.add_row(name, f"{before:.1%}", f"{after:.1%}")
    console.console.print(table)
    console.say(f"everything is in {out}; open {out / 'report.html'}")
