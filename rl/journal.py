"""The run's memory on disk: metrics.jsonl, samples.jsonl, expert_load.jsonl and the checkpoints.

Lines are appended step by step. A run that is killed leaves lines of steps after its last checkpoint, and perhaps half
a line: resuming drops them, since those steps are made again.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import CheckpointError, intact, written_whole
from model.engine import Completion
from model.moe import ExpertLoad
from rl import jsonl
from rl.rollout import Begun, Group
from rl.step import Metrics


class JournalError(RuntimeError):
    """The run directory cannot be written or resumed."""

    exit_status = 1


FULL_DISK = ("No space left", "File too large", "Disk quota exceeded")
"""How the libraries that write checkpoints say it, in exceptions of their own."""


@dataclass(frozen=True)
class Progress:
    """``step`` steps are done; the next group to begin is at ``place`` of the problem stream; those of ``begun`` are
    before it and not used yet."""

    step: int = 0
    place: int = 0
    begun: tuple[Begun, ...] = ()


class Journal:
    """One run directory. ``keep`` bounds how many checkpoints stay (the newest ones). ``order`` says what the run goes
    through, where it can be another: a run goes on in the order that it was begun in."""

    def __init__(self, folder: Path, keep: int, order: str = "") -> None:
        self.folder, self.keep, self.order = folder, keep, order
        self.metrics_path, self.samples_path = folder / "metrics.jsonl", folder / "samples.jsonl"
        self.load_path = folder / "expert_load.jsonl"
        self.paths = (self.metrics_path, self.samples_path, self.load_path)
        self.checkpoints = folder / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def metrics(self, step: int, metrics: Metrics) -> None:
        _append(self.metrics_path, [{"step": step, **metrics}])

    def expert_load(self, step: int, load: ExpertLoad) -> None:
        """The tokens that each expert of each MoE layer was trained on. In a file of its own, since there are as many
        numbers a step as experts in the model."""
        if load:
            _append(self.load_path, [{"step": step, "layers": load}])

    def samples(self, step: int, groups: Sequence[Group], *, trained: bool) -> None:
        """Every sample of these groups; ``trained`` is false for groups that were dropped for lack of signal."""
        _append(self.samples_path, [line for group in groups for line in sample_lines(step, group, trained)])

    @contextmanager
    def checkpoint(self, progress: Progress) -> Iterator[Path]:
        """A folder to write a checkpoint into; it takes its name, and old ones go, when the block ends well. Raises
        JournalError where the disk is full; the checkpoint before stays."""
        for path in self.paths:
            if path.exists():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        try:
            with written_whole(self.checkpoints / f"step-{progress.step}") as draft:
                yield draft
                if progress.begun:
                    torch.save(list(map(_kept, progress.begun)), draft / "begun.pt")
                kept = {"step": progress.step, "place": progress.place, "order": self.order, "bytes": sizes(draft)}
                (draft / "progress.json").write_text(json.dumps(kept))
        except Exception as error:
            if not (isinstance(error, OSError) or any(sign in str(error) for sign in FULL_DISK)):
                raise
            reason = str(error).rpartition("\n")[2]  # Ray puts the traceback of another process before it
            raise JournalError(
                f"{self.checkpoints}: cannot write the checkpoint of step {progress.step} ({reason}); the last whole "
                "checkpoint is untouched: free space, then continue with --resume"
            ) from None
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.checkpoints / f"step-{old}")

    def steps(self) -> list[int]:
        """The steps that have a whole checkpoint, oldest first."""
        found = (re.fullmatch(r"step-(\d+)", path.name) for path in self.checkpoints.iterdir())
        return sorted(int(match[1]) for match in found if match)

    @contextmanager
    def resuming(self) -> Iterator[tuple[Path | None, Progress]]:
        """The newest checkpoint, which the block restores, and its progress; where there is none, none and the
        beginning. Then drops the lines of later steps, which are made again. Raises JournalError where the checkpoint
        is damaged, or of another order."""
        try:
            folder, progress = self._newest()
            yield folder, progress
        except CheckpointError as error:
            newest = self.checkpoints / f"step-{self.steps()[-1]}"
            raise JournalError(f"{error}\nremove {newest}, and --resume goes on at the checkpoint before") from None
        self.forget_after(progress.step)

    def _newest(self) -> tuple[Path | None, Progress]:
        steps = self.steps()
        if not steps:
            return None, Progress()
        folder = self.checkpoints / f"step-{steps[-1]}"
        with intact(folder / "progress.json"):
            found = json.loads((folder / "progress.json").read_text())
            step, place, written = found["step"], found["place"], found.get("bytes", {})
        there = sizes(folder)
        for name, size in written.items():
            if there.get(name) != size:
                raise CheckpointError(f"{folder / name}: damaged ({there.get(name, 0)} bytes of {size} are there)")
        kept = folder / "begun.pt"
        with intact(kept):
            begun = tuple(map(_found, torch.load(kept, weights_only=True))) if kept.exists() else ()
        progress = Progress(step, place, begun)
        if (order := found.get("order", self.order)) != self.order:
            raise JournalError(
                f"{self.folder}: the run was begun on other data ({order} then, {self.order} now), and would lose and "
                f"repeat some of it: put it back, or begin a new run with base = {str(folder)!r}"
            )
        return folder, progress

    def forget_after(self, step: int) -> None:
        """The beginning has no lines that stay: a run that is still there evaluates once more."""
        for path in self.paths:
            if path.exists():
                jsonl.write(path, (line for line in read(path) if 0 < step >= line["step"]))


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file, by its place in the folder."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def write_checkpoint(journal: Journal, progress: Progress, save: Callable[[Path], None]) -> Path:
    with journal.checkpoint(progress) as folder:
        save(folder)
    return journal.checkpoints / f"step-{progress.step}"


def _kept(group: Begun) -> dict[str, Any]:
    """In types that torch loads as data alone."""
    return {
        "place": group.place,
        "completions": [
            None if c is None else {**vars(c), "routes": None if c.routes is None else torch.from_numpy(c.routes)}
            for c in group.completions
        ],
    }


def _found(group: dict[str, Any]) -> Begun:
    completions = (
        None if c is None else Completion(**{**c, "routes": None if c["routes"] is None else c["routes"].numpy()})
        for c in group["completions"]
    )
    return Begun(group["place"], tuple(completions))


def sample_lines(step: int, group: Group, trained: bool) -> Iterator[dict[str, Any]]:
    for copy, (completion, score, advantage) in enumerate(
        zip(group.completions, group.scores, group.advantages, strict=True)
    ):
        yield {
            "id": group.draw.sample_id(copy),
            "step": step,
            "problem": group.draw.problem.id,
            "prompt": group.draw.problem.fields["prompt"],
            "text": completion.text,
            "tokens": len(completion.token_ids),
            "token_ids": list(completion.token_ids),
            "logprobs": [round(p, 4) for p in completion.logprobs],
            "finish_reason": completion.finish_reason,
            "versions": [[v, len(list(run))] for v, run in itertools.groupby(completion.versions)],
            "score": score.value,
            "status": score.status,
            "parts": dict(score.parts),
            "detail": score.detail,
            "advantage": advantage,
            "trained": trained and advantage is not None,
        }


def read_load(folder: Path) -> list[tuple[int, ExpertLoad]]:
    """A run's expert load, step by step; empty where the run recorded none."""
    path = folder / "expert_load.jsonl"
    lines = read(path) if path.is_file() else ()
    return [(line["step"], {int(layer): counts for layer, counts in line["layers"].items()}) for line in lines]


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal file; a last line that was cut off by a kill is passed over."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield json.loads(line)


def _append(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    except OSError as error:
        raise JournalError(
            f"{path}: cannot write ({error.strerror}); free space, then continue with --resume"
        ) from None
