from __future__ import annotations

import json

import pytest
import tomli_w

from jobs import config, distill
from jobs.config import DistillRecipe, RecipeError
from jobs.distill import DistillError
from tests.jobs.conftest import Workspace

TEMPLATE = "{prompt}="
ANY = "tests.jobs.test_distill:digits"


def digits(samples: list[object]) -> list[float]:
    """Right is what begins with a digit or is empty, so that a random teacher is right now and then."""
    return [float(not str(s.response)[:1].isalpha()) for s in samples]  # type: ignore[attr-defined]


@pytest.fixture
def recipe(workspace: Workspace) -> DistillRecipe:
    workspace.write_problems([{"id": str(i), "prompt": f"{i}+1", "reward": ANY} for i in range(8)])
    values = {
        "teacher": str(workspace.base),
        "problems": str(workspace.problems),
        "sample": {"template": TEMPLATE, "samples": 8, "max_tokens": 90, "temperature": 1.0, "top_p": 1.0},
        "sft": {
            "base": str(workspace.base),
            "run": {"dir": str(workspace.run)},
            "train": {"steps": 2, "batch_samples": 2},
            "optimizer": {"lr": 1e-3},
        },
    }
    path = workspace.folder / "distill.toml"
    path.write_text(tomli_w.dumps(values))
    return config.read(path, DistillRecipe)


def test_the_student_learns_what_was_right_and_ended(recipe: DistillRecipe, workspace: Workspace) -> None:
    student = distill.student_of(recipe, "distill.toml")
    assert student.data.template == TEMPLATE
    folder = distill.train(recipe, student, resume=False)
    assert (folder / "model.safetensors").is_file()
    samples = [json.loads(line) for line in (workspace.run / "teacher" / "samples.jsonl").read_text().splitlines()]
    right = {(s["problem"], s["text"]) for s in samples if s["score"] == 1.0 and s["finish_reason"] == "stop"}
    kept = [json.loads(line) for line in (workspace.run / "verified.jsonl").read_text().splitlines()]
    assert len(samples) == 64
    assert 0 < len(kept) < 64
    assert sorted(line["response"] for line in kept) == sorted(text for _, text in right)


def test_a_teacher_that_is_never_right_teaches_nothing(recipe: DistillRecipe) -> None:
    hard = recipe.model_copy(update={"sample": recipe.sample.model_copy(update={"keep_from": 2.0})})
    with pytest.raises(DistillError, match="none of the teacher's 64 samples"):
        distill.train(hard, distill.student_of(hard, "x"), resume=False)


def test_the_training_file_is_not_the_users(recipe: DistillRecipe) -> None:
    own = recipe.model_copy(update={"sft": {**recipe.sft, "data": {"train": "mine.jsonl"}}})
    with pytest.raises(RecipeError, match="leave it out"):
        distill.student_of(own, "distill.toml")


def test_a_dry_run_asks_the_teacher_nothing(
    recipe: DistillRecipe, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workspace.folder / "distill.toml"
    distill.command(str(path), dry_run=True)
    assert "keep_from = 1.0" in capsys.readouterr().out
    assert not workspace.run.exists()
    with pytest.raises(ValueError, match="no such checkpoint"):
        distill.command(str(path), ["teacher=nowhere"], dry_run=True)
