"""What all processes below one process use together, read from the host's /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    cpu_seconds: float = 0.0
    """Of living processes and of their children that were waited for."""
    memory_bytes: int = 0
    """Resident and not file-backed; pages shared after a fork count for each process."""
    tasks: int = 0
    """Processes and threads."""


def usage_below(pid: int) -> Usage:
    """The use of all descendants of ``pid``, itself excluded. What ends meanwhile is left out."""
    cpu, memory, tasks = 0.0, 0, 0
    pending = children(pid)
    while pending:
        child = pending.pop()
        try:
            with open(f"/proc/{child}/stat", "rb") as file:
                fields = file.read().rpartition(b") ")[2].split()
            with open(f"/proc/{child}/statm", "rb") as file:
                statm = file.read().split()
        except OSError:
            continue
        cpu += sum(int(fields[index]) for index in (11, 12, 13, 14)) / _TICKS
        memory += (int(statm[1]) - int(statm[2])) * _PAGE
        tasks += int(fields[17])
        pending += children(child)
    return Usage(cpu, memory, tasks)


def children(pid: int) -> list[int]:
    """Processes whose parent is ``pid``, in any of its threads."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:
        pass
    return found
