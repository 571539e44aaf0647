"""How the parts of a publish get from the trainer's process to the engines', other than as bytes that are stored.

    trainer   place(parts) -> a handle, which is pickled and reaches every engine through whoever drives the run
              send(its number), while the engines go through it
              release(its number), when they have
    engine    received(handle) -> parts, one at a time

`Shared`: engines read the trainer's tensors where they lie. `Broadcast`: the trainer sends them to all, layer by layer,
over NCCL or Gloo.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from model.parts import Outline, Part
from model.publish import PublishError

T = TypeVar("T")
Way = Literal["store", "ipc", "broadcast"]


def gpu() -> str | None:
    """The GPU of this process, by a name that no other has, or None."""
    return str(torch.cuda.get_device_properties().uuid) if torch.cuda.is_available() else None


def natural(trainer: str | None, workers: Sequence[str | None]) -> Way:
    """What suits processes on these GPUs. NCCL takes one process a GPU, CUDA IPC opens what lies on a GPU that the
    receiver has."""
    if trainer is not None and set(workers) == {trainer}:
        return "ipc"
    return "broadcast" if apart([trainer, *workers]) else "store"


def apart(gpus: Sequence[str | None]) -> bool:
    """Whether each has a GPU of its own."""
    return None not in gpus and len(set(gpus)) == len(gpus)


@dataclass(frozen=True)
class SharedPart:
    """``where``: the function and its arguments that open the bytes in another process."""

    outline: Outline
    where: tuple[Any, tuple[Any, ...]]

    @property
    def name(self) -> str:
        return self.outline.name

    def opened(self) -> Part:
        rebuild, arguments = self.where
        return Part(self.outline, rebuild(*arguments))


@dataclass(frozen=True)
class SharedParts:
    number: int
    handles: list[SharedPart]

    def __iter__(self) -> Iterator[Part]:
        return (handle.opened() for handle in self.handles)


class Kept:
    """What the trainer has placed and engines have not all taken, by number."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.kept: dict[int, list[Placed]] = {}

    def keep(self, parts: Iterable[Part]) -> int:
        number = next(self.numbers)
        self.kept[number] = [Placed(part, written(part)) for part in parts]
        return number

    def release(self, number: int) -> None:
        del self.kept[number]


class Placed(NamedTuple):
    """A part, and the event on its GPU that comes behind its last write."""

    part: Part
    written: torch.cuda.Event | None


def written(part: Part) -> torch.cuda.Event | None:
    """Of a part whose writes have just been launched."""
    if not part.piece.is_cuda:
        return None
    event = torch.cuda.Event()
    event.record()
    return event


class Shared(Kept):
    """The trainer's end for engines on its own GPU, which read its memory through CUDA IPC, with torch's reductions. On
    a CPU it is shared memory, for processes that one has started."""

    def place(self, parts: Iterable[Part]) -> SharedParts:
        number = self.keep(parts)
        placed = [part for part, _ in self.kept[number]]
        return SharedParts(number, [SharedPart(part.outline, reduce_tensor(part.piece)) for part in placed])

    def send(self, number: int) -> None:
        """Engines fetch by themselves."""


class Meeting(NamedTuple):
    """Where ``size`` processes meet, the trainer as rank 0; ``seconds`` that they, and later each broadcast, may take.
    ``nccl``: each has a GPU of its own, over which the bytes go."""

    host: str
    port: int
    size: int
    nccl: bool
    seconds: float


@dataclass(frozen=True)
class AnnouncedParts:
    """What a broadcast will bring."""

    number: int
    outlines: list[Outline]

    def __iter__(self) -> Iterator[Part]:
        raise PublishError("weights that are broadcast reach those alone that have joined in")


class Broadcast(Kept):
    """The end of the trainer, rank 0, or of a rollout worker. Raises PublishError where the others do not come, or are
    gone."""

    def __init__(self, meeting: Meeting, rank: int, listener: socket.socket | None = None) -> None:
        """``listener`` is the trainer's, at the place of the meeting."""
        super().__init__()
        self.size = meeting.size
        self.device = torch.device("cuda" if meeting.nccl else "cpu")
        seconds = timedelta(seconds=meeting.seconds)
        listening = {"is_master": True, "master_listen_fd": listener.detach()} if listener else {}
        c10d: Any = dist
        kind = c10d.ProcessGroupNCCL if meeting.nccl else c10d.ProcessGroupGloo
        with failing_clearly(f"trainer and rollout workers did not meet at {meeting.host}:{meeting.port}"):
            self.store = c10d.TCPStore(meeting.host, meeting.port, timeout=seconds, wait_for_workers=False, **listening)
            self.group = kind(self.store, rank, meeting.size, seconds)

    def place(self, parts: Iterable[Part]) -> AnnouncedParts:
        number = self.keep(parts)
        return AnnouncedParts(number, [part.outline for part, _ in self.kept[number]])

    def send(self, number: int) -> None:
        """Ends when all is on its way. On a GPU parts are sent while later ones are still being made."""
        self._wait_for_all(number)
        with torch.cuda.stream(torch.cuda.Stream() if self.device.type == "cuda" else None):
            for part, event in self.kept[number]:
                if event is not None:
                    event.wait()
                self._broadcast(part.to(self.device).piece)

    def received(self, parts: AnnouncedParts) -> Iterator[Part]:
        """The next one is on its way while one is used."""
        return ahead(self._received(parts))

    def _received(self, parts: AnnouncedParts) -> Iterator[Part]:
        with failing_clearly("the trainer cannot be reached"):
            self.store.add(_ready(parts.number), 1)
        self._wait_for_all(parts.number)
        for outline in parts.outlines:
            part = outline.empty(self.device)
            self._broadcast(part.piece)
            yield part

    def _wait_for_all(self, number: int) -> None:
        """An engine may be sampling until then, for as long as that takes: the time of a broadcast has not begun."""
        with failing_clearly("the trainer cannot be reached"):
            while self.store.add(_ready(number), 0) < self.size - 1:
                time.sleep(0.002)

    def _broadcast(self, piece: Tensor) -> None:
        with failing_clearly("a broadcast of weights failed"):
            self.group.broadcast(piece, 0).wait()


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each fetched by a thread while the one before it is used."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        coming: Future[Any] = thread.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, source, end)
            yield item


def _ready(number: int) -> str:
    return f"ready for {number}"


def listening(host: str) -> socket.socket:
    """A socket for a meeting at this host's address."""
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


@contextmanager
def failing_clearly(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PublishError(
            f"{what}: {error}\na rollout worker or the network between the hosts is gone; continue the run with "
            '--resume, or publish through the object store with cluster.transport = "store"'
        ) from None
