from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from jobs import config, trackers
from jobs.config import RecipeError, RunTable


def test_tensorboard_gets_every_metric_at_its_step(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with trackers.opened(["tensorboard"], tmp_path, 0) as tracking:
        for step in (1, 2):
            tracking[0].log(step, {"reward": 0.5 * step, "held_out/math": 0.25})
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("reward")] == [(1, 0.5), (2, 1.0)]
    assert [e.value for e in board.Scalars("held_out/math")] == [0.25, 0.25]


def test_steps_that_a_resumed_run_makes_again_are_shown_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((0, (1, 2, 3)), (1, (2, 3))):
        with trackers.opened(["tensorboard"], tmp_path, start) as tracking:
            for step in steps:
                tracking[0].log(step, {"reward": float(step + 10 * start)})
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("reward")] == [(1, 1.0), (2, 12.0), (3, 13.0)]


@pytest.mark.slow
def test_wandb_gets_metrics_and_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="needs wandb: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "recipe.toml").write_text("learning_rate = 0.0123")
    with trackers.opened(["wandb"], tmp_path, 0) as tracking:
        tracking[0].log(3, {"reward_of_samples": 0.4375})
    wandb.teardown()
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    stored = path.read_bytes()
    for expected in (b"reward_of_samples", b"0.4375", b"learning_rate", b"0.0123"):
        assert expected in stored


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="trackers: .*pip install wandb"):
        config.build({"dir": str(tmp_path), "trackers": ["wandb"]}, RunTable, "test")
