"""What all processes below one process use together, read from the host's /proc."""

from __future__ import annotations

import os
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    cpu_seconds: float = 0.0
    """Of living processes and of their children that were waited for."""
    memory_bytes: int = 0
    """Resident and not file-backed; pages shared after a fork count for each process."""
    tasks: int = 0
    """Processes and threads."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that were waited for; 0 for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return _cpu_seconds(file.read().rpartition(b") ")[2].split())
    except OSError:
        return 0.0


def _cpu_seconds(fields: list[bytes]) -> float:
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / _TICKS


def usage_below(pid: int, precise_above_bytes: int) -> Usage:
    """The use of all descendants of ``pid``, itself excluded. What ends meanwhile is left out.

    Memory is first taken as the sum of what is resident, where pages that forked processes share count for each. If
    that is more than ``precise_above_bytes``, it is taken again with each shared page divided among its processes.
    """
    cpu, memory, tasks = 0.0, 0, 0
    found: list[int] = []
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
        found.append(child)
        cpu += _cpu_seconds(fields)
        memory += (int(statm[1]) - int(statm[2])) * _PAGE + _shared_memory(statm, child)
        tasks += int(fields[17])
        pending += children(child)
    if memory > precise_above_bytes and len(found) > 1:
        memory = min(memory, sum(_proportional(child) for child in found))
    return Usage(cpu, memory, tasks)


def _shared_memory(statm: list[bytes], pid: int) -> int:
    """Shared memory that is not a file's; only looked at where it can matter."""
    if int(statm[2]) * _PAGE < 32 << 20:
        return 0
    return _field(f"/proc/{pid}/status", b"RssShmem:")


def _proportional(pid: int) -> int:
    rollup = f"/proc/{pid}/smaps_rollup"
    return _field(rollup, b"Pss_Anon:") + _field(rollup, b"Pss_Shmem:")


def _field(path: str, name: bytes) -> int:
    try:
        with open(path, "rb") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


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
