"""How a process that trains or samples on a CPU treats memory that it has freed."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
"""GLIBC_TUNABLES for processes to be started, which cannot have these from `keep_freed` any more: pages of 2 MiB, fewer
for a CPU to look up, and one arena even for the threads that run before it is called."""
KEPT = 2**30
"""Bytes; an allocation of more comes from the kernel and goes back to it."""


def keep_freed() -> None:
    """From now on what is freed is kept for what is allocated next. As it is set up, glibc hands large blocks back to
    the kernel, a hundred megabytes and more in every training step, and the kernel clears each page that it gives out
    again. One arena for all threads, since those that a thread gets for itself are given back all the same. See
    mallopt(3); a C library that has no such call is left as it is."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, KEPT), (TRIM_THRESHOLD, KEPT)):
            mallopt(option, value)
