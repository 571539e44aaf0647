"""How the memory of the zygote lies, so that forking it is cheap.

A fork copies an entry for every page that its parent ever wrote, and the end of the run clears them again. A page that
either of them writes to is copied, and code has to be mapped anew. So what is only read lies in huge pages, where one
entry stands for 512, and what is written lies together.

All of this makes runs quicker and nothing else: where a machine cannot do it, the memory stays as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import NamedTuple

from sandbox import kernel

HUGE_BYTES = 2 << 20
_MOST_CODE_BYTES = 8 << 20
_POOL_BYTES, _POOL_HEADER_BYTES, _SMALL_BYTES, _LARGE_BYTES = 1 << 14, 48, 512, 1 << 16
READ_AND_WRITE, _READ_AND_EXECUTE = 1 | 2, 1 | 4
_PRIVATE = 0x02 | 0x20  # MAP_PRIVATE, MAP_ANONYMOUS
_MREMAP_TO = 1 | 2  # MREMAP_MAYMOVE, MREMAP_FIXED
MADV_COLLAPSE = 25
"""The module ``mmap`` has these and would be one more library that every run carries."""


TAKE_ARENAS = "arenas = [bytes(400) for _ in range(5000)][::2000]"
"""For the start of the interpreter: makes its allocator take what it will need (1 MiB at a time, 2,268 such objects)
in one stretch, before libraries lie in between, and keeps it by an object in each."""


class Mapping(NamedTuple):
    """One line of /proc/self/maps."""

    start: int
    end: int
    access: str
    path: str


def mappings() -> list[Mapping]:
    """This process's memory by address."""
    found = []
    with open("/proc/self/maps") as file:
        for line in file:
            span, access, _, _, _, *path = line.split()
            start, end = (int(number, 16) for number in span.split("-"))
            found.append(Mapping(start, end, access, path[0] if path else ""))
    return found


def use_huge_code() -> None:
    """Moves the interpreter's code, with the constants around it, to huge pages at the same address. The code stays
    what it was, and nobody can write to it."""
    start, end = whole(*code())
    size = end - start
    if not 0 < size <= _MOST_CODE_BYTES:
        return
    with contextlib.suppress(OSError):
        copy = reserve(size, READ_AND_WRITE)
        try:
            ctypes.memmove(copy, start, size)
            kernel.memory("madvise", copy, size, MADV_COLLAPSE)
            kernel.memory("mprotect", copy, size, _READ_AND_EXECUTE)
            kernel.memory("mremap", copy, size, size, _MREMAP_TO, start)
        except OSError:
            kernel.memory("munmap", copy, size)


def code() -> tuple[int, int]:
    """Where the file of the code is mapped and not written to any more, as one stretch around the code."""
    rows = mappings()
    inside = kernel.address_of("PyObject_Str")
    first = last = next(index for index, row in enumerate(rows) if row.start <= inside < row.end)
    while first and _continues(rows[first - 1], rows[first]):
        first -= 1
    while last + 1 < len(rows) and _continues(rows[last], rows[last + 1]):
        last += 1
    return rows[first].start, rows[last].end


def _continues(low: Mapping, high: Mapping) -> bool:
    return low.end == high.start and low.path == high.path and "w" not in low.access + high.access


def use_huge_arenas() -> None:
    """Puts the interpreter's objects into huge pages, where they fill some. A page that is written to is copied alone
    all the same."""
    with contextlib.suppress(FileNotFoundError):  # a jail without /proc
        for row in mappings():
            if row.path or "w" not in row.access:
                continue
            for start in range(*whole(row.start, row.end), HUGE_BYTES):
                with contextlib.suppress(OSError):
                    kernel.memory("madvise", start, HUGE_BYTES, MADV_COLLAPSE)


def whole(start: int, end: int) -> tuple[int, int]:
    """The huge pages that lie in a stretch."""
    return -(-start // HUGE_BYTES) * HUGE_BYTES, end // HUGE_BYTES * HUGE_BYTES


def reserve(size: int, access: int) -> int:
    """New memory that begins at a huge page."""
    found = kernel.memory("mmap", 0, size + HUGE_BYTES, access, _PRIVATE, -1, 0)
    start = -(-found // HUGE_BYTES) * HUGE_BYTES
    for low, high in ((found, start), (start + size, found + size + HUGE_BYTES)):
        if low < high:
            kernel.memory("munmap", low, high - low)
    return start


def fill_holes() -> None:
    """Takes the free places between what was allocated so far, for good. New objects then lie together, where they
    would lie scattered over pages that every run has to copy for them. How CPython's allocator and the C library's are
    built only decides how well this works."""
    empty = sys.getsizeof(b"")
    for size in range(48, _SMALL_BYTES + 1, 16):
        for _ in range(512):
            filler = bytes(size - empty)
            if (id(filler) - _POOL_HEADER_BYTES) % _POOL_BYTES == 0:
                break
            _fillers.append(filler)
    top = id(bytes(_LARGE_BYTES))
    for size in range(_LARGE_BYTES - 16, _SMALL_BYTES, -16):
        while id(filler := bytes(size)) < top:
            _fillers.append(filler)


_fillers: list[bytes] = []
