"""Work that is launched over and over on memory that stays where it is, as a CUDA graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")

KEPT = 2
"""So many sets of addresses are remembered: more come to nothing but new recordings."""


@dataclass
class _Met(Generic[T]):
    """``work`` on some addresses, which has run on them once; then its ``graph`` and what that leaves, ``out``."""

    work: Callable[..., T]
    graph: torch.cuda.CUDAGraph | None = None
    out: T | None = None


class Replayed(Generic[T]):
    """Work by the addresses that it reads and writes. When it meets them first it runs as it is, which compiles its
    kernels; the second time it is recorded, and from then on replayed, whatever else its arguments are. ``prepare``
    makes from the arguments what is called with them, once for each set of addresses. Without a GPU it just runs.

    ``memory`` is what recordings of work that always comes in the same order have in common (`shared_memory`).
    """

    def __init__(self, prepare: Callable[..., Callable[..., T]], device: torch.device, memory: Any = None) -> None:
        self.prepare, self.on_gpu, self.memory = prepare, device.type == "cuda", memory
        self.met: OrderedDict[Hashable, _Met[T]] = OrderedDict()

    def __call__(self, addresses: Hashable, *args: Any) -> T:
        known = addresses in self.met
        met = self.met[addresses] if known else _Met(self.prepare(*args))
        self.met[addresses] = met
        self.met.move_to_end(addresses)
        if len(self.met) > KEPT:
            self.met.popitem(last=False)
        if not known or not self.on_gpu:
            return met.work(*args)
        if met.graph is None:
            met.graph = torch.cuda.CUDAGraph()
            with recording(met.graph, self.memory):
                met.out = met.work(*args)
        met.graph.replay()
        return met.out  # type: ignore[return-value]


def shared_memory(device: torch.device) -> Any:
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


@contextmanager
def recording(graph: torch.cuda.CUDAGraph, memory: Any) -> Iterator[None]:
    """As `torch.cuda.graph`, which also collects garbage, waits for the device and gives cached memory back."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=memory, capture_error_mode="thread_local")
        try:
            yield
        finally:
            graph.capture_end()


@contextmanager
def beside(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Launches on ``stream`` what comes behind all that has been launched here so far."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield


def behind(stream: torch.cuda.Stream | None) -> None:
    """What is launched here from now on comes behind all that has been launched on ``stream``."""
    if stream is not None:
        torch.cuda.current_stream().wait_stream(stream)


def stream_of(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None
