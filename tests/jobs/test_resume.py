"""A run goes on as it was begun, or says what is another; where it cannot, its folder is as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.progress import Progress as Bar

from jobs import config, grpo, parts, report, sft
from jobs.config import GrpoRecipe, RecipeError, SftRecipe
from model import checkpoint
from model.policy import PolicyError
from rl.journal import JournalError
from tests.fakes import tiny_policy
from tests.jobs.conftest import Workspace
from tests.jobs.test_sft import recipe_in

Go = Callable[..., object]


def fine_tune(workspace: Workspace, *overrides: str, resume: bool = False) -> object:
    recipe = workspace.folder / "sft.toml"
    return sft.train(
        config.read(recipe if recipe.exists() else recipe_in(workspace), SftRecipe, overrides), resume=resume
    )


def reinforce(workspace: Workspace, *overrides: str, resume: bool = False) -> object:
    """As `zeroth grpo` does it, with the parts in this process."""
    settings = ["rollout.lag=0", "evaluate.every=0", "train.steps=3", *overrides]
    recipe = config.read(workspace.recipe, GrpoRecipe, settings)
    ready = grpo.checked(recipe, resume=resume)
    workspace.run.mkdir(exist_ok=True)
    trainer, engine = parts.make_trainer(recipe), parts.make_engine(recipe.base, 64, 1)
    with Bar(disable=True) as bar:
        return asyncio.run(grpo.drive(recipe, ready, trainer, engine, ready.make_judge(), bar))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".toml", ".jsonl")}


@pytest.mark.parametrize("go", [fine_tune, reinforce])
def test_a_run_that_cannot_be_restored_keeps_its_recipe_and_its_lines(go: Go, workspace: Workspace) -> None:
    """The newest checkpoint is gone, so that the lines hold steps which would be made again."""
    go(workspace)
    newest = max((workspace.run / "checkpoints").iterdir())
    newest.rename(workspace.folder / "gone")
    before = contents(workspace.run)
    other = tiny_policy(hidden_size=48)
    checkpoint.save(other.model, other.tokenizer, workspace.base)
    with pytest.raises(PolicyError, match="another than the recipe's"):
        go(workspace, "optimizer.lr=2e-3", resume=True)
    assert contents(workspace.run) == before


@pytest.mark.parametrize("name", ["trainer.pt", "model.safetensors", "steps"])
def test_a_file_of_the_checkpoint_that_is_cut_off_is_named_with_the_remedy(name: str, workspace: Workspace) -> None:
    reinforce(workspace)
    newest = max((workspace.run / "checkpoints").iterdir())
    (newest / name).write_bytes((newest / name).read_bytes()[:-30])
    with pytest.raises(JournalError, match=rf"(?s){name}.*remove {newest}, and --resume goes on"):
        reinforce(workspace, resume=True)


@pytest.mark.parametrize("go", [fine_tune, reinforce])
def test_a_run_says_what_of_its_recipe_is_another_than_before(
    go: Go, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    go(workspace)
    assert "goes on" not in capsys.readouterr().err
    go(workspace, "optimizer.lr=2e-3", "train.steps=7", resume=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "optimizer.lr: 0.0" in said
    assert "then, 0.002 now; train.steps: " in said
    assert "lr = 0.002" in (workspace.run / "recipe.toml").read_text()


@pytest.mark.parametrize("go", [fine_tune, reinforce])
def test_a_run_does_not_go_on_in_another_order(go: Go, workspace: Workspace) -> None:
    go(workspace)
    with pytest.raises(RecipeError, match=r"begun with run\.seed = 0"):
        go(workspace, "run.seed=1", resume=True)
    fewer = workspace.folder / "fewer.jsonl"
    whole = workspace.problems if go is reinforce else workspace.folder / "samples.jsonl"
    fewer.write_text("".join(whole.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(JournalError, match="begun on other data"):
        go(workspace, f"data.train={fewer}", resume=True)


def test_a_run_that_is_ended_before_its_first_step_has_a_report(workspace: Workspace) -> None:
    """As `zeroth grpo` writes it at its end."""
    workspace.run.mkdir()
    assert "0 steps, 0 samples" in report.write(workspace.run).read_text()


def test_the_report_shows_some_steps_and_counts_all(workspace: Workspace) -> None:
    reinforce(workspace, "train.steps=6")
    page = report.write(workspace.run).read_text()
    assert [f"<h3>Step {step}</h3>" in page for step in range(1, 7)] == [True, False, False, True, False, True]
    assert "6 steps, 36 samples" in page


def test_a_run_goes_on_with_problems_that_were_put_right(workspace: Workspace) -> None:
    reinforce(workspace)
    workspace.problems.write_text(workspace.problems.read_text().replace('"answer": "3"', '"answer": "4"'))
    assert reinforce(workspace, "train.steps=4", resume=True) == 4
