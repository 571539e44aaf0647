from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobs.cli import main
from model import checkpoint
from tests.fakes import tiny_policy

if TYPE_CHECKING:
    from jobs.cluster import Cluster

RECIPE = """
base = "{base}"

[run]
dir = "{run}"
checkpoint_every = 2

[data]
train = "{problems}"
held_out = "{problems}"
template = "{{prompt}}="

[train]
steps = 4

[optimizer]
lr = 1e-3

[rollout]
groups_per_step = 3
samples_per_group = 2
max_tokens = 6

[reward]
added = {{ boxed = 0.1 }}

[evaluate]
every = 2
problems = 4
"""


PLUGIN = """
from rewards import Score

def digits(samples):
    return [Score(sum(c.isdigit() for c in s.response) / max(1, len(s.response))) for s in samples]
"""


class Workspace:
    """A folder with a tiny base checkpoint, problems and a recipe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base, self.run, self.problems = folder / "base", folder / "run", folder / "problems.jsonl"
        self.recipe = folder / "recipe.toml"
        policy = tiny_policy()
        self.base.mkdir()
        checkpoint.save(policy.model, policy.tokenizer, self.base)
        sums = [{"id": str(i), "prompt": f"{i}+1", "reward": "math", "answer": str(i + 1)} for i in range(8)]
        self.write_problems(sums)
        (folder / "my_rewards.py").write_text(PLUGIN)
        self.recipe.write_text(RECIPE.format(base=self.base, run=self.run, problems=self.problems))

    def write_problems(self, problems: Sequence[Mapping[str, object]]) -> None:
        self.problems.write_text("".join(json.dumps(problem) + "\n" for problem in problems))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def on_local(local: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that would start a Ray has the one of this process."""
    monkeypatch.setattr("jobs.cluster.connect", lambda address, cpus: nullcontext(local))


Done = subprocess.CompletedProcess[str]
Zeroth = Callable[..., Done]


@pytest.fixture
def zeroth(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Zeroth:
    """The command, called in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        return Done(arguments, int(ended.value.code or 0), *capsys.readouterr())

    return call


def assert_refused(done: Done, *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    flat = " ".join(done.stderr.split())
    assert flat.startswith("error:")
    for word in words:
        assert word in flat
