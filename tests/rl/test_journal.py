from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.engine import Completion
from rl.journal import Journal, JournalError, Progress, read, read_load, write_checkpoint
from rl.rollout import Begun


def saved(folder: Path) -> None:
    (folder / "steps").write_text("1000")


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, keep=1)
    journal.metrics(1, {"loss": 1.0})
    write_checkpoint(journal, Progress(1, 3), saved)
    journal.metrics(2, {"loss": 2.0})
    with journal.metrics_path.open("a") as file:
        file.write('{"step": 3, "lo')
    with journal.resuming() as newest:
        assert newest == (tmp_path / "checkpoints" / "step-1", Progress(1, 3))
    assert journal.metrics_path.read_text() == json.dumps({"step": 1, "loss": 1.0}) + "\n"


def test_groups_that_are_begun_come_back_as_they_were(tmp_path: Path) -> None:
    routes = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    paused = Completion((5, 6), (-0.1, -1 / 3), (3, 4), "paused", "ab", routes)
    ended = Completion((7,), (-2.5,), (4,), "stop", "\u2028")
    journal = Journal(tmp_path, keep=1)
    progress = Progress(4, 13, (Begun(9, (paused, None)), Begun(12, (ended, paused))))
    write_checkpoint(journal, progress, saved)
    with journal.resuming() as (_, found):
        assert found == progress
    first = found.begun[0].completions[0]
    assert first is not None
    assert first.routes is not None
    assert first.routes.dtype == np.int16
    assert np.array_equal(first.routes, routes)
    assert found.begun[1].going == [1]


def test_expert_load_is_read_back_and_forgotten_with_its_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path, keep=1)
    assert read_load(tmp_path) == []
    journal.expert_load(1, {3: [5, 7]})
    journal.expert_load(2, {3: [6, 6]})
    assert read_load(tmp_path) == [(1, {3: [5, 7]}), (2, {3: [6, 6]})]
    journal.forget_after(1)
    assert read_load(tmp_path) == [(1, {3: [5, 7]})]


def test_what_is_told_of_the_beginning_is_forgotten_by_a_run_that_begins_anew(tmp_path: Path) -> None:
    """A run that was stopped before its first step evaluates its base once more."""
    journal = Journal(tmp_path, keep=1)
    journal.metrics(0, {"held_out": 1.0})
    write_checkpoint(journal, Progress(), saved)
    with journal.resuming():
        pass
    assert list(read(journal.metrics_path)) == []


@pytest.mark.parametrize("name", ["progress.json", "begun.pt", "steps"])
def test_a_damaged_checkpoint_says_how_the_run_goes_on_and_no_line_is_dropped(tmp_path: Path, name: str) -> None:
    journal = Journal(tmp_path, keep=2)
    write_checkpoint(journal, Progress(1, 1), saved)
    write_checkpoint(journal, Progress(2, 2, (Begun(1, (None,)),)), saved)
    journal.metrics(3, {"loss": 1.0})
    damaged = journal.checkpoints / "step-2" / name
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with pytest.raises(JournalError, match=rf"(?s)step-2/{name}: damaged .*remove .*step-2, "), journal.resuming():
        pass
    assert [line["step"] for line in read(journal.metrics_path)] == [3]
    shutil.rmtree(journal.checkpoints / "step-2")
    with journal.resuming() as (_, progress):
        assert progress == Progress(1, 1)


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    journal = Journal(tmp_path, keep=2)
    for step in (2, 10, 9):
        write_checkpoint(journal, Progress(step, step), saved)
    assert journal.steps() == [9, 10]


def test_a_checkpoint_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path, keep=1)
    write_checkpoint(journal, Progress(1, 1), saved)

    def full(folder: Path) -> None:
        saved(folder)
        raise RuntimeError("in another process:\n  Traceback\nSafetensorError: No space left on device")

    with pytest.raises(JournalError, match=r"step 2 \(SafetensorError: No space left on device\).*free space"):
        write_checkpoint(journal, Progress(2, 2), full)
    assert [path.name for path in journal.checkpoints.iterdir()] == ["step-1"]


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path, keep=1)
    journal.metrics_path.symlink_to("/dev/full")
    with pytest.raises(JournalError, match="No space left on device"):
        journal.metrics(1, {"loss": 1.0})


def test_hostile_text_stays_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"step": 1, "text": "a\nb\u2028c\r\x00"}) + "\n")
    assert len(list(read(path))) == 1
