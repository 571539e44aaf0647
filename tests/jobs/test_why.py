from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from jobs import config, console, grpo, parts
from jobs.cli import main
from jobs.config import GrpoRecipe
from tests.jobs.conftest import Workspace


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four synchronous steps in this process, with a checkpoint at every second."""
    workspace = Workspace(tmp_path_factory.mktemp("why"))
    recipe = config.read(workspace.recipe, GrpoRecipe, ["rollout.lag=0", "run.keep_checkpoints=1"])
    ready = grpo.checked(recipe, resume=False)
    workspace.run.mkdir()
    config.write(recipe, workspace.run / "recipe.toml")
    trainer, engine = parts.make_trainer(recipe), parts.make_engine(recipe.base, 8, 1)
    with console.progress() as bar:
        asyncio.run(grpo.drive(recipe, ready, trainer, engine, ready.make_judge(), bar))
    return workspace.run


def sample(run: Path, version: int) -> dict[str, object]:
    lines = map(json.loads, (run / "samples.jsonl").read_text().splitlines())
    found: dict[str, object] = next(line for line in lines if line["versions"][0][0] == version)
    return found


def asked(run: Path, identity: object, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, object]:
    with pytest.raises(SystemExit) as ended:
        main(["why", str(run), str(identity), "--json", *options])
    assert ended.value.code == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_sample_is_traced_to_its_seed_weights_and_scores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = sample(run, 0)
    found = asked(run, line["id"], capsys)
    assert found["text"] == line["text"]
    assert f"{found['problem']}/{found['epoch']}/{found['copy']}" == line["id"]
    assert (found["score"], found["parts"], found["step"]) == (line["score"], line["parts"], 1)
    assert found["weights"] == {"0": str(run.parent / "base")}


def test_the_same_weights_and_seed_give_the_same_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(run, sample(run, 0)["id"], capsys, "--reproduce")["reproduced"] is True


def test_another_text_is_told_apart(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, line = run / "samples.jsonl", sample(run, 0)
    before = path.read_text()
    lines = [json.loads(text) for text in before.splitlines()]
    path.write_text("".join(json.dumps({**one, "text": f"{one['text']}!"}) + "\n" for one in lines))
    assert asked(run, line["id"], capsys, "--reproduce")["reproduced"] is False
    path.write_text(before)


def test_weights_that_are_gone_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = sample(run, 1)
    assert asked(run, line["id"], capsys)["weights"] == {"1": None}
    with pytest.raises(SystemExit) as ended:
        main(["why", str(run), str(line["id"]), "--reproduce"])
    assert ended.value.code == 2
    assert "keep_checkpoints" in " ".join(capsys.readouterr().err.split())


def test_an_unknown_sample_lists_those_of_its_problem(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = sample(run, 0)["problem"]
    with pytest.raises(SystemExit) as ended:
        main(["why", str(run), f"{problem}/99/0"])
    assert ended.value.code == 2
    assert f"{problem}/0/0" in capsys.readouterr().err
