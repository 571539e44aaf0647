"""Where a run's metrics go beside metrics.jsonl: TensorBoard events in the run directory, Weights & Biases."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...


@contextmanager
def opened(names: Sequence[str], run_dir: Path, step: int) -> Iterator[list[Tracker]]:
    """The trackers of a run that continues after ``step`` (0: begins) and whose directory holds its recipe."""
    with ExitStack() as stack:
        made: list[Tracker] = []
        if "tensorboard" in names:
            made.append(stack.enter_context(_tensorboard(run_dir, step)))
        if "wandb" in names:
            made.append(stack.enter_context(_wandb(run_dir)))
        yield made


class _Board:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)


@contextmanager
def _tensorboard(run_dir: Path, step: int) -> Iterator[_Board]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run_dir), purge_step=step + 1 if step else None) as writer:
        yield _Board(writer)


class _Wandb:
    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)


@contextmanager
def _wandb(run_dir: Path) -> Iterator[_Wandb]:
    """Project, entity, key and mode are read from WANDB_* variables, as everywhere. The run's id is made from its
    directory, so that a resumed run goes on in the same curves."""
    import wandb

    place = run_dir.resolve()
    identity = hashlib.blake2b(str(place).encode(), digest_size=8).hexdigest()
    recipe = tomllib.loads((run_dir / "recipe.toml").read_text())
    with wandb.init(id=identity, resume="allow", name=place.name, dir=str(place), config=recipe) as run:
        yield _Wandb(run)
