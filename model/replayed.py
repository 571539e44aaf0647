"""Work that is launched over and over on memory that stays where it is, as a CUDA graph."""

from __future__ import annotations

import functools
import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

Work = Callable[..., tuple[Tensor, ...]]
PARTED = 8
"""Multiprocessors that CUDA parts from others together."""
KEPT = 2
"""So many sets of addresses are remembered: more would come to nothing but new recordings."""


class Recorder:
    """Where graphs are recorded, on this stream, that never run beside each other: what they need in between is the
    same memory."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream) -> None:
        self.stream = stream
        self.pool: Any = torch.cuda.graph_pool_handle()
        self.first = self.record(lambda: torch.zeros(1, device=device))  # as long as there is one, the memory stays

    @staticmethod
    def on(device: torch.device, *, moving: bool = False) -> Recorder | None:
        """Where there is a GPU. Graphs that are ``moving`` weights leave as many multiprocessors alone as others do."""
        stream = (another_moving_stream(device) if moving else None) or another_stream(device, urgent=False)
        return None if stream is None else Recorder(device, stream)

    def record(self, work: Callable[[], object]) -> Callable[[], None]:
        """What launches again what ``work`` launches, with the same arguments. As `torch.cuda.graph`, which also
        collects garbage, waits for the device and gives cached memory back."""
        graph = torch.cuda.CUDAGraph()
        with beside(self.stream), no_collection():
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        return graph.replay


@dataclass
class _Met:
    """``work`` on some addresses, what it ``left`` when it ran on them first, and what leaves it there again."""

    work: Work
    left: tuple[Tensor, ...]
    replay: Callable[[], None] | None = None


class Replayed:
    """Work by the addresses that it reads and writes. When it meets them first it runs as it is, which compiles its
    kernels; the second time it is recorded, and from then on replayed, whatever else its arguments are. ``prepare``
    makes from the arguments what is called with them, once for each set of addresses. Without a recorder it just runs.
    """

    def __init__(self, prepare: Callable[..., Work], recorder: Recorder | None) -> None:
        self.prepare, self.recorder = prepare, recorder
        self.met: OrderedDict[Hashable, _Met] = OrderedDict()

    def __call__(self, addresses: Hashable, *args: object) -> tuple[Tensor, ...]:
        """What comes out is overwritten when the same addresses are met again."""
        met = self.met.get(addresses)
        if met is None:
            work = self.prepare(*args)
            met = self.met[addresses] = _Met(work, work(*args))
            if len(self.met) > KEPT:
                self.met.popitem(last=False)
            return met.left
        self.met.move_to_end(addresses)
        if self.recorder is None:
            return met.work(*args)
        if met.replay is None:
            met.replay = self.recorder.record(partial(_again, met, args))
        met.replay()
        return met.left


def _again(met: _Met, args: tuple[object, ...]) -> None:
    for left, new in zip(met.left, met.work(*args), strict=True):
        left.copy_(new)


@contextmanager
def no_collection() -> Iterator[None]:
    """Garbage may be what must not be let go of amid a recording."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def moving(device: torch.device) -> Iterator[None]:
    """Launches on `moving_stream` what comes in between what was launched here before and what will be."""
    stream = moving_stream(device)
    try:
        with beside(stream):
            yield
    finally:
        behind(stream)


@contextmanager
def beside(stream: torch.cuda.Stream | None, *, apart: bool = False) -> Iterator[torch.cuda.Stream | None]:
    """Launches on ``stream`` what comes behind all that has been launched here so far; or ``apart`` from it. Gives what
    is launched on here, for `behind`."""
    if stream is None:
        yield None
        return
    here = current(stream.device_index)
    if not apart:
        stream.wait_stream(here)
    torch.cuda.set_stream(stream)  # `torch.cuda.stream` asks for the device two times more, see `current`
    try:
        yield here
    finally:
        torch.cuda.set_stream(here)


def behind(stream: torch.cuda.Stream | None, here: torch.cuda.Stream | None = None) -> None:
    """What is launched here from now on comes behind all that has been launched on ``stream``."""
    if stream is not None:
        (here or current(stream.device_index)).wait_stream(stream)


def current(device: int) -> torch.cuda.Stream:
    """What is launched on, on the GPU of this number. (Without it torch takes several times as long: it asks every kind
    of device whether there are any.)"""
    return torch.cuda.current_stream(device)


def fetched(numbers: Tensor) -> Callable[[], list[float]]:
    """Numbers [N] on their way to the host; what is returned waits until they are there. (Asked for by `tolist` they
    would begin to come once the host waits, and by way of memory that the driver has to copy them from.)"""
    if not numbers.is_cuda:
        return numbers.tolist
    arriving, there = torch.empty(numbers.shape, pin_memory=True), torch.cuda.Event()
    arriving.copy_(numbers, non_blocking=True)
    there.record()

    def wait() -> list[float]:
        there.synchronize()
        return arriving.tolist()

    return wait


def another_stream(device: torch.device, *, urgent: bool) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device, priority=-int(urgent)) if device.type == "cuda" else None


@functools.lru_cache(maxsize=8)
def moving_stream(device: torch.device) -> torch.cuda.Stream | None:
    """The one for all that is not recorded."""
    return another_moving_stream(device)


def another_moving_stream(device: torch.device) -> torch.cuda.Stream | None:
    """One for what moves weights: it leaves a seventh of the multiprocessors alone, which it does not need, so that a
    prompt that follows the weights finds room there at once. (Elsewhere what multiplies waits until the programs of a
    multiprocessor have ended: its shared memory is taken from the cache that their reads wait in.) None where there is
    no GPU, or no way to part it."""
    context = movers(device)
    if context is None:
        return None
    stream: Any = torch.cuda.ExternalStream(context.Stream().cuda_stream, device)
    stream.context = context  # with which it would end
    return stream  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=8)
def movers(device: torch.device) -> Any:
    """The multiprocessors for it, as a CUDA green context, or None."""
    if device.type != "cuda":
        return None
    from torch.cuda import green_contexts

    if not green_contexts.SUPPORTED:
        return None
    most = torch.cuda.get_device_properties(device).multi_processor_count * 6 // 7
    try:
        return green_contexts.GreenContext.create(num_sms=most // PARTED * PARTED, device_id=device.index)
    except RuntimeError:
        return None
