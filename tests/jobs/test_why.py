"""`zeroth why` on a real run, of three synchronous steps in this process."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from jobs import config, console, grpo, parts
from jobs.cli import main
from jobs.config import GrpoRecipe
from jobs.why import problem_of
from rl.journal import read
from rl.rollout import sample_seed
from tests.jobs.conftest import Workspace


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("why"))
    overrides = ["rollout.lag=0", "train.steps=3", "run.checkpoint_every=1", "run.keep_checkpoints=1", "run.seed=5"]
    recipe = config.read(workspace.recipe, GrpoRecipe, [*overrides, "evaluate.every=0"])
    ready = grpo.checked(recipe, resume=False)
    workspace.run.mkdir()
    trainer, engine = parts.make_trainer(recipe), parts.make_engine(recipe.base, 64, 1)
    with console.progress() as bar:
        assert asyncio.run(grpo.drive(recipe, ready, trainer, engine, ready.make_judge(), bar)) == 3
    return workspace


def why(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    with pytest.raises(SystemExit) as done:
        main(["why", str(folder), *arguments, "--json"])
    out, errors = capsys.readouterr()
    return int(done.value.code or 0), json.loads(out) if out else {}, errors


def sample(run: Workspace, step: int) -> dict[str, Any]:
    return next(line for line in read(run.run / "samples.jsonl") if line["step"] == step)


def test_a_sample_is_traced_to_its_problem_seed_weights_and_reward(
    run: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    line = sample(run, 2)
    status, found, errors = why(capsys, run.run, line["id"])
    assert status == 0, errors
    assert found["problem"]["id"] == line["problem"]
    assert json.loads(run.problems.read_text().split("\n")[found["problem"]["line"] - 1])["id"] == line["problem"]
    assert found["seed"] == sample_seed(5, line["id"])
    assert (found["step"], found["lag"]) == (2, 0)
    assert found["weight_versions"] == [{"version": 1, "tokens": line["tokens"]}]
    assert (found["score"], found["parts"], found["advantage"]) == (line["score"], line["parts"], line["advantage"])
    assert len(found["scores_of_its_group"]) == 2


def test_a_problem_is_found_in_a_packed_file(workspace: Workspace) -> None:
    packed = workspace.folder / "problems.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\n" + workspace.problems.read_bytes()))
    recipe = config.read(workspace.recipe, GrpoRecipe, [f"data.train={packed}"])
    problem, line = problem_of(recipe, "3")
    assert problem is not None
    assert (problem.id, line) == ("3", 5)


@pytest.mark.parametrize("step", [1, 3])
def test_a_sample_whose_weights_are_there_is_made_again(
    run: Workspace, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    """Of the base at step 1; the only checkpoint that is kept, after step 3, samples nothing."""
    line = sample(run, step)
    found = why(capsys, run.run, line["id"])[1]
    if step == 1:
        assert found["weights"] == str(run.base)
        assert found["again"]["same"]
        assert found["again"]["text"] == line["text"]
        assert found["again"]["logprob_gap"] < 1e-3
    else:
        assert "again" not in found
        assert "no checkpoint of version 2 was kept; there are [3]" in found["weights"]


def test_a_checkpoint_of_the_version_is_found_by_its_updates(
    run: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Version 3 would have sampled step 4."""
    path = run.run / "samples.jsonl"
    before = path.read_text()
    line = {**sample(run, 3), "versions": [[3, sample(run, 3)["tokens"]]]}
    try:
        path.write_text(json.dumps(line) + "\n")
        found = why(capsys, run.run, line["id"])[1]
        assert found["weights"].endswith("step-3")
        assert found["again"]["of_tokens"] == line["tokens"]
        assert "again" not in why(capsys, run.run, line["id"], "--no-again")[1]
    finally:
        path.write_text(before)


def test_an_unknown_sample_and_a_folder_that_is_no_run_are_refused(
    run: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = sample(run, 1)
    status, _, errors = why(capsys, run.run, line["id"] + "9")
    assert status == 2
    assert repr(line["id"]) in errors
    assert why(capsys, tmp_path, line["id"])[0] == 2
