"""A control group for the jail: memory and processes of all its runs together, counted by the kernel.

The zygote lives in the group and every run is born there, so that counting costs a run nothing. Version 2 is used where
the controllers are delegated to us, version 1 where its hierarchies are writable; else there is none, and the
substitute is RLIMIT_DATA, RLIMIT_NPROC and the supervisor's watch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time

_PREFIX = "zeroth-sandbox-"
OWN_PROCESSES = 2
"""What the group holds beside a run: the zygote and the tests' process."""
_MB = 1 << 20
_numbers = itertools.count()


class Group:
    """The directories of one group: one with version 2, one for each controller with version 1."""

    def __init__(self, directories: dict[str, str], version: int) -> None:
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
            _write(f"{directory}/cgroup.procs", pid)

    def limit(self, memory_mb: int, disk_mb: int, processes: int) -> None:
        """Sets the limits on top of what the zygote itself uses. Files of a run are memory to the kernel, so the group
        may hold both; the supervisor's watch holds the memory alone to its limit."""
        if self._limits == (memory_mb + disk_mb, processes):
            return
        self._limits = (memory_mb + disk_mb, processes)
        if self.counts_memory:
            directory = self._directories["memory"]
            name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
            _write(f"{directory}/{name}", (memory_mb + disk_mb + 20) * _MB)
            with contextlib.suppress(OSError):
                _write(f"{directory}/memory.swap.max", 0)
        if self.counts_processes:
            _write(f"{self._directories['pids']}/pids.max", processes + OWN_PROCESSES)

    def events(self) -> tuple[int, int]:
        """How often so far the kernel ended a process for memory, and refused a new one."""
        return _count(self._memory_events, b"oom_kill "), _count(self._process_events, b"max ")

    def _open(self, controller: str, name: str) -> int:
        if controller not in self._directories:
            return -1
        return os.open(f"{self._directories[controller]}/{name}", os.O_RDONLY | os.O_CLOEXEC)

    def remove(self) -> None:
        """Removes the directories; waits a little for the kernel to finish with processes that were just ended."""
        for descriptor in (self._memory_events, self._process_events):
            if descriptor >= 0:
                os.close(descriptor)
        for directory in set(self._directories.values()):
            for _ in range(100):
                try:
                    os.rmdir(directory)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)


def _count(descriptor: int, key: bytes) -> int:
    if descriptor < 0:
        return 0
    count = (b"\n" + os.pread(descriptor, 1024, 0)).partition(b"\n" + key)[2]
    return int(count.partition(b"\n")[0] or 0)


def _write(path: str, number: int) -> None:
    with open(path, "w") as file:
        file.write(str(number))


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def create() -> Group | None:
    """A new group, or None where this process may not make one that counts anything and takes processes."""
    group = _create()
    if group is None or _takes_processes(group):
        return group
    group.remove()
    return None


def _takes_processes(group: Group) -> bool:
    """Whether a child of ours can be moved into the group: with version 2 that needs more than writing to it."""
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    try:
        group.add(child)
        return True
    except OSError:
        return False
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _create() -> Group | None:
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
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _mounts() -> dict[str, str]:
    """Where each controller's hierarchy is mounted; the key "" is version 2."""
    mounts = {}
    for line in _lines("/proc/self/mounts"):
        _, path, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            mounts[""] = path
        elif kind == "cgroup":
            mounts |= dict.fromkeys(options.split(","), path)
    return mounts


def _make(root: str, own: str, name: str, files: tuple[str, ...]) -> str | None:
    """A new group below this process's own or one of its ancestors, the nearest where ``files`` appear."""
    parent = os.path.normpath(f"{root}/{own}")
    while True:
        _sweep(parent)
        directory = f"{parent}/{name}"
        try:
            os.mkdir(directory)
        except OSError:
            pass
        else:
            if all(os.access(f"{directory}/{file}", os.W_OK) for file in (*files, "cgroup.procs")):
                return directory
            os.rmdir(directory)
        if not parent.startswith(f"{root}/"):
            return None
        parent = os.path.dirname(parent)


def _sweep(parent: str) -> None:
    """Removes groups whose supervisor was killed together with its owner."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            pid = name.removeprefix(_PREFIX).partition("-")[0]
            if name.startswith(_PREFIX) and not os.path.exists(f"/proc/{pid}"):
                with contextlib.suppress(OSError):
                    os.rmdir(f"{parent}/{name}")
