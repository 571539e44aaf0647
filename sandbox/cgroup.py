"""A control group for the jail: memory and processes of all its runs together, counted by the kernel.

The zygote lives in the group and every run is born there, so that counting costs a run nothing. Version 2 is used where
the controllers are delegated to us, version 1 where its hierarchies are writable; else there is none, and the
substitute is RLIMIT_DATA, RLIMIT_NPROC and the supervisor's watch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path

_PREFIX = "zeroth-sandbox-"
_MB = 1 << 20
_numbers = itertools.count()


class Group:
    """The directories of one group: one with version 2, one for each controller with version 1."""

    def __init__(self, directories: dict[str, Path], version: int) -> None:
        self._directories = directories
        self.version = version
        self.counts_memory = "memory" in directories
        self.counts_processes = "pids" in directories
        self._limits: tuple[int, int] = (0, 0)
        name = "memory.events" if version == 2 else "memory.oom_control"
        self._memory_events = self._open("memory", name)
        self._process_events = self._open("pids", "pids.events")

    def add(self, pid: int) -> None:
        for directory in set(self._directories.values()):
            (directory / "cgroup.procs").write_text(str(pid))

    def limit(self, memory_mb: int, disk_mb: int, processes: int) -> None:
        """Sets the limits on top of what the zygote itself uses. Files of a run are memory to the kernel, so the group
        may hold both; the supervisor's watch holds the memory alone to its limit."""
        if self._limits == (memory_mb + disk_mb, processes):
            return
        self._limits = (memory_mb + disk_mb, processes)
        if self.counts_memory:
            directory = self._directories["memory"]
            name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
            (directory / name).write_text(str((memory_mb + disk_mb + 16) * _MB))
            with contextlib.suppress(OSError):
                (directory / "memory.swap.max").write_text("0")
        if self.counts_processes:
            (self._directories["pids"] / "pids.max").write_text(str(processes + 2))

    def events(self) -> tuple[int, int]:
        """How often so far the kernel ended a process for memory, and refused a new one."""
        return _count(self._memory_events, b"oom_kill "), _count(self._process_events, b"max ")

    def _open(self, controller: str, name: str) -> int:
        if controller not in self._directories:
            return -1
        return os.open(self._directories[controller] / name, os.O_RDONLY | os.O_CLOEXEC)

    def remove(self) -> None:
        """Removes the directories; waits a little for the kernel to finish with processes that were just ended."""
        for descriptor in (self._memory_events, self._process_events):
            if descriptor >= 0:
                os.close(descriptor)
        for directory in set(self._directories.values()):
            for _ in range(100):
                try:
                    directory.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)


def _count(descriptor: int, key: bytes) -> int:
    if descriptor < 0:
        return 0
    for line in os.pread(descriptor, 1024, 0).splitlines():
        if line.startswith(key):
            return int(line[len(key) :])
    return 0


def create() -> Group | None:
    """A new group, or None where this process may not make one that counts anything."""
    name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
    own = _own_groups()
    mounts = _mounts()
    if "" in mounts and "" in own:
        found = _make(mounts[""], own[""], name, ("memory.max", "pids.max"))
        if found is not None:
            return Group({"memory": found, "pids": found}, 2)
    directories = {}
    for controller, file in (("memory", "memory.limit_in_bytes"), ("pids", "pids.max")):
        if controller in mounts and controller in own:
            found = _make(mounts[controller], own[controller], name, (file,))
            if found is not None:
                directories[controller] = found
    return Group(directories, 1) if directories else None


def _own_groups() -> dict[str, str]:
    """This process's group in each hierarchy; the key "" is version 2."""
    groups = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
    return groups


def _mounts() -> dict[str, Path]:
    mounts = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, path, kind, options, *_ = line.split(" ")
            if kind == "cgroup2":
                mounts[""] = Path(path)
            elif kind == "cgroup":
                mounts |= {option: Path(path) for option in options.split(",")}
    return mounts


def _make(root: Path, own: str, name: str, files: tuple[str, ...]) -> Path | None:
    """A new group below this process's own or one of its ancestors, the nearest where ``files`` appear."""
    parent = root / own.lstrip("/")
    while True:
        _sweep(parent)
        directory = parent / name
        try:
            directory.mkdir()
        except OSError:
            pass
        else:
            if all(os.access(directory / file, os.W_OK) for file in (*files, "cgroup.procs")):
                return directory
            directory.rmdir()
        if parent == root or root not in parent.parents:
            return None
        parent = parent.parent


def _sweep(parent: Path) -> None:
    """Removes groups whose supervisor was killed together with its owner."""
    with contextlib.suppress(OSError):
        for directory in parent.glob(f"{_PREFIX}*"):
            pid = directory.name.removeprefix(_PREFIX).partition("-")[0]
            if not os.path.exists(f"/proc/{pid}"):
                with contextlib.suppress(OSError):
                    directory.rmdir()
