"""How the parts of a publish get from the trainer's process to the engines', other than as bytes that are stored.

    trainer   place(parts) -> a handle, which is pickled and reaches every engine through whoever drives the run
              send(its number), while the engines go through it
              release(its number), when they have
    engine    received(handle) -> parts, one at a time

`Shared`: engines read the trainer's tensors where they lie. `Broadcast`: the trainer sends them to all, layer by layer,
over NCCL or Gloo.
"""

from __future__ import annotations

import functools
import itertools
import socket
import time
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.weak import WeakIdKeyDictionary

from model.parts import Outline, Part
from model.publish import PublishError
from model.replayed import current

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


class Opening(NamedTuple):
    """How another process opens memory: a function and its arguments. ``written``: the handle of the event on its GPU
    behind which it may be read."""

    rebuild: Any
    arguments: tuple[Any, ...]
    written: bytes | None

    def open(self) -> Tensor:
        if self.written is None:
            return self.rebuild(*self.arguments)  # type: ignore[no-any-return]
        piece, event = opened(self)
        event.wait(current(piece.get_device()))
        return piece

    def wait(self) -> None:
        """On the host, until it may be read."""
        if self.written is not None:
            opened(self)[1].synchronize()


@functools.lru_cache(maxsize=256)
def opened(how: Opening) -> tuple[Tensor, torch.cuda.Event]:
    """Kept, for a trainer uses the same memory again and to open it takes long."""
    piece: Tensor = how.rebuild(*how.arguments)
    return piece, torch.cuda.Event.from_ipc_handle(piece.device, how.written)


@dataclass(frozen=True)
class SharedPart:
    outline: Outline
    how: Opening

    @property
    def name(self) -> str:
        return self.outline.name

    def opened(self) -> Part:
        return Part(self.outline, self.how.open())


@dataclass(frozen=True)
class SharedParts:
    number: int
    handles: list[SharedPart]

    def __iter__(self) -> Iterator[Part]:
        """Once the last is there: two processes on one GPU take turns, also while one of them waits for the other."""
        self.handles[-1].how.wait()
        return (handle.opened() for handle in self.handles)


class Kept:
    """What the trainer has placed and engines have not all taken, by number."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.kept: dict[int, list[Placed]] = {}

    def keep(self, parts: Iterable[Part]) -> int:
        number = next(self.numbers)
        self.kept[number] = [Placed(part, self.written(part)) for part in parts]
        return number

    def release(self, number: int) -> None:
        del self.kept[number]

    def written(self, part: Part) -> torch.cuda.Event | None:
        """The event on its GPU behind the writes of a part, which have just been launched."""
        if not part.piece.is_cuda:
            return None
        event = self.event(part.piece)
        event.record(current(part.piece.get_device()))
        return event

    def event(self, piece: Tensor) -> torch.cuda.Event:
        return torch.cuda.Event()


class Placed(NamedTuple):
    """A part, and the event on its GPU that comes behind its last write."""

    part: Part
    written: torch.cuda.Event | None


class Shared(Kept):
    """The trainer's end for engines on its own GPU, which read its memory through CUDA IPC, with torch's reductions. On
    a CPU it is shared memory, for processes that one has started."""

    def __init__(self) -> None:
        super().__init__()
        self.events: MutableMapping[Tensor, torch.cuda.Event] = WeakIdKeyDictionary()
        self.openings: MutableMapping[Tensor, Opening] = WeakIdKeyDictionary()

    def place(self, parts: Iterable[Part]) -> SharedParts:
        number = self.keep(parts)
        return SharedParts(
            number, [SharedPart(part.outline, self.opening(part.piece)) for part, _ in self.kept[number]]
        )

    def send(self, number: int) -> None:
        """Engines fetch by themselves."""

    def event(self, piece: Tensor) -> torch.cuda.Event:
        """Memory that is used again has the same one."""
        if piece not in self.events:
            self.events[piece] = torch.cuda.Event(interprocess=True)
        return self.events[piece]

    def opening(self, piece: Tensor) -> Opening:
        if piece not in self.openings:
            handle = self.events[piece].ipc_handle() if piece.is_cuda else None
            rebuild, arguments = reduce_tensor(piece)
            self.openings[piece] = Opening(rebuild, arguments, handle)
        return self.openings[piece]


class Meeting(NamedTuple):
    """Where ``size`` processes meet, the (first) trainer as rank 0; ``seconds`` that they, and later each broadcast or
    sum, may take. ``nccl``: each has a GPU of its own, over which the bytes go."""

    host: str
    port: int
    size: int
    nccl: bool
    seconds: float


def meet(meeting: Meeting, rank: int, listener: socket.socket | None = None) -> tuple[Any, Any]:
    """The store and the process group of those who meet; ``listener`` is rank 0's, at the place of the meeting."""
    seconds = timedelta(seconds=meeting.seconds)
    listening = {"is_master": True, "master_listen_fd": listener.detach()} if listener else {}
    c10d: Any = dist
    kind = c10d.ProcessGroupNCCL if meeting.nccl else c10d.ProcessGroupGloo
    store = c10d.TCPStore(meeting.host, meeting.port, timeout=seconds, wait_for_workers=False, **listening)
    return store, kind(store, rank, meeting.size, seconds)


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
        self.landings: list[Tensor] = []
        self.device = torch.device("cuda" if meeting.nccl else "cpu")
        with failing_clearly(f"trainer and rollout workers did not meet at {meeting.host}:{meeting.port}"):
            self.store, self.group = meet(meeting, rank, listener)

    def place(self, parts: Iterable[Part]) -> AnnouncedParts:
        number = self.keep(parts)
        return AnnouncedParts(number, [part.outline for part, _ in self.kept[number]])

    def send(self, number: int) -> None:
        """Ends when all is on its way. On a GPU parts are sent while later ones are still being made."""
        self._wait_for_all(number)
        side = torch.cuda.Stream() if self.device.type == "cuda" else None
        with torch.cuda.stream(side):
            for part, event in self.kept[number]:
                if event is not None:
                    event.wait(side)
                self._broadcast(part.to(self.device).piece)

    def received(self, parts: AnnouncedParts) -> Iterator[Part]:
        """The next one is on its way while one is used."""
        return ahead(self._received(parts))

    def _received(self, parts: AnnouncedParts) -> Iterator[Part]:
        with failing_clearly("the trainer cannot be reached"):
            self.store.add(_ready(parts.number), 1)
        self._wait_for_all(parts.number)
        for part in self._landing(parts.outlines):
            self._broadcast(part.piece)
            yield part

    def _landing(self, outlines: Sequence[Outline]) -> Iterator[Part]:
        """Room for what comes: on a GPU two places in turn, which are the same at every publish. What is sent into one
        comes behind all that was launched on what it held."""
        if self.device.type == "cpu":
            yield from (outline.empty(self.device) for outline in outlines)
            return
        largest = max(outline.size for outline in outlines)
        if not self.landings or len(self.landings[0]) < largest:
            self.landings = [torch.empty(largest, dtype=torch.uint8, device=self.device) for _ in range(2)]
        for outline, landing in zip(outlines, itertools.cycle(self.landings), strict=False):
            yield Part(outline, landing[: outline.size])

    def _wait_for_all(self, number: int) -> None:
        """An engine may be sampling until then, for as long as that takes: the time of a broadcast has not begun."""
        with failing_clearly("the trainer cannot be reached"):
            began = time.monotonic()
            while self.store.add(_ready(number), 0) < self.size - 1:
                time.sleep(min(0.002, 0.0001 + (time.monotonic() - began) / 10))

    def _broadcast(self, piece: Tensor) -> None:
        with failing_clearly("a broadcast of weights failed"):
            self.group.broadcast(piece, 0).wait()


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each fetched by a thread while the one before it is used, and on the stream on which it is."""
    source, end = iter(items), object()
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def fetched() -> Any:
        with torch.cuda.stream(stream):
            return next(source, end)

    with ThreadPoolExecutor(1) as thread:
        coming: Future[Any] = thread.submit(fetched)
        while (item := coming.result()) is not end:
            coming = thread.submit(fetched)
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
