"""A folder has one writer, and a file is whole at every moment."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.files import FolderError, held, write_whole
from tests.jobs.conftest import Workspace, Zeroth, assert_refused
from tests.jobs.test_cli import ROOT
from tests.jobs.test_sft import recipe_in

HOLDER = """
import os, sys, time
from pathlib import Path
from jobs.files import held
with held(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(3)  # a child that outlives the driver
        os._exit(0)
    print("held", flush=True)
    time.sleep(30)
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder, killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), "--lr=1"], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_process_is_told_of_the_first_and_goes_on_once_that_is_killed(tmp_path: Path) -> None:
    with holding(tmp_path) as other:
        with pytest.raises(FolderError) as refused, held(tmp_path):
            pass
        for word in (str(tmp_path), f"pid {other.pid} on ", "--lr=1", "name another folder"):
            assert word in str(refused.value)
    with held(tmp_path):
        pass


def test_a_command_inside_another_one_holds_the_folder_once_more(tmp_path: Path) -> None:
    with held(tmp_path):
        with held(tmp_path / "run" / ".."):
            pass
        refused = subprocess.run(
            [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, text=True, capture_output=True, check=False
        )
    assert "another process writes into this folder" in refused.stderr


def test_a_filesystem_without_locks_is_used_and_said_to_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with held(tmp_path):
        pass
    assert "has no locks" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["quickstart", "chain", "grpo", "sft", "eval"])
def test_a_command_writes_nothing_into_a_folder_of_a_living_process(
    command: str, workspace: Workspace, zeroth: Zeroth
) -> None:
    run = workspace.run
    calls = {
        "quickstart": ("--out", run),
        "chain": ("chain", f"dir={run}"),
        "grpo": (workspace.recipe,),
        "sft": (recipe_in(workspace),),
        "eval": (workspace.base, "--suite", workspace.problems, "--template", "{prompt}", "--out", run),
    }
    with holding(run):
        assert_refused(zeroth(command, *calls[command]), str(run), "another process writes into this folder")
    assert [path.name for path in run.iterdir()] == [".lock"]


def test_a_run_that_goes_on_is_said_to_do_so_where_one_would_be_begun(workspace: Workspace, zeroth: Zeroth) -> None:
    workspace.run.mkdir()
    (workspace.run / "metrics.jsonl").touch()
    with holding(workspace.run):
        assert_refused(zeroth("grpo", workspace.recipe), "another process writes into this folder")
    assert_refused(zeroth("grpo", workspace.recipe), "continue it with --resume")


def test_a_text_takes_a_file_s_place_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with path.open() as reader:
        write_whole(path, "after")
        assert reader.read() == "before"
    assert path.read_text() == "after"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_is_no_regular_file_is_written_through(kind: str, tmp_path: Path) -> None:
    path, target = tmp_path / "out", tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(path)
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as reader:
            write_whole(path, "text")
            assert reader.read() == "text"
        assert path.is_fifo()
    else:
        target.touch()
        path.symlink_to(target)
        write_whole(path, "text")
        assert target.read_text() == "text"
        assert path.is_symlink()


@pytest.mark.parametrize("other", ["--seed=1", "--full"])
def test_a_quickstart_is_not_continued_by_another_one(other: str, tmp_path: Path, zeroth: Zeroth) -> None:
    (tmp_path / "settings.json").write_text('{"seed": 0, "full": false}')
    assert_refused(zeroth("quickstart", "--out", tmp_path, other), str(tmp_path), "then", "name another folder")
