"""The jail: namespaces, a minimal read-only root, and what every run adds to it, as lists whose order is the argument.

``enter`` runs once, in the process that becomes the zygote. ``isolate`` runs once for every program, in the process
that is about to run it.
"""

from __future__ import annotations

import _socket
import contextlib
import functools
import os
import stat
import sys
from typing import NamedTuple

from sandbox import kernel, seccomp
from sandbox.program import SOURCE

ZYGOTE_ID, PROGRAM_ID = 61100, 61101
"""Real user and group ids that root drops to. They lie in a range that systemd reserves for nobody."""
INNER_ZYGOTE_ID, INNER_PROGRAM_ID = 1001, 1000

HOME = "/tmp"  # noqa: S108 - a file system of the run's own
_PROGRAM = f"{HOME}/{SOURCE}"
_DEVICES = ("null", "zero", "full", "random", "urandom")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/etc/alternatives", "/etc/ld.so.cache")
_FILES = {
    "/etc/passwd": f"program:x:{INNER_PROGRAM_ID}:{INNER_PROGRAM_ID}:program:{HOME}:/bin/sh\n",
    "/etc/group": f"program:x:{INNER_PROGRAM_ID}:\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_MB = 1 << 20

LANDLOCK_FILES = (1 << 13) - 1  # ABI 1: execute, write, read, list, remove, make
LANDLOCK_READ = 0b1101  # execute, read file, read directory
_LANDLOCK_TRUNCATE, _LANDLOCK_REFER, _LANDLOCK_IOCTL = 1 << 14, 1 << 13, 1 << 15
_LANDLOCK_WRITE_FILE = 1 << 1


class Layout(NamedTuple):
    """What the jail is made of; decided outside it."""

    directories: tuple[str, ...]
    """Directories of the host to show read-only at the same place: the interpreter, packages, toolchains."""
    private_ids: bool
    """Root maps two real unprivileged ids; an ordinary user has its own id and no other."""


def visible_directories(layout: Layout) -> list[str]:
    """The host paths that the jail shows, parents first, none inside another."""
    chosen: list[str] = []
    for path in sorted({*_SYSTEM, *layout.directories}):
        if os.path.exists(path) and not any(path == parent or path.startswith(parent + "/") for parent in chosen):
            chosen.append(path)
    return chosen


def shown_at(path: str) -> str:
    """Where the jail shows a host path: in the same place, unless a run's own file systems cover that place."""
    covered = path.startswith((f"{HOME}/", "/dev/", "/proc/"))
    return f"/host{path}" if covered else path


def namespaces() -> None:
    """A user namespace first: it owns the others, so nothing here has power over the host's."""
    kernel.unshare(
        kernel.CLONE_NEWUSER
        | kernel.CLONE_NEWNS
        | kernel.CLONE_NEWPID
        | kernel.CLONE_NEWNET
        | kernel.CLONE_NEWIPC
        | kernel.CLONE_NEWUTS
        | kernel.CLONE_NEWCGROUP
    )


def take_mounts(layout: Layout) -> dict[str, int | str]:
    """Copies of the visible mounts, made read-only while detached, and symbolic links as their targets.

    Taken under the caller's own user id, which may read directories that the jail's id may not.
    """
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    taken: dict[str, int | str] = {}
    for path in visible_directories(layout):
        if os.path.islink(path):
            taken[shown_at(path)] = os.readlink(path)
            continue
        taken[shown_at(path)] = tree = kernel.clone_mount(path)
        kernel.restrict_mount(tree, kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV)
    for device in (f"/dev/{name}" for name in _DEVICES):
        if os.path.exists(device):
            taken[device] = kernel.clone_mount(device)
    return taken


def take_unprivileged_id(layout: Layout) -> None:
    """Root leaves its real user id before anything else: a mapped id alone would keep the host's uid 0 underneath."""
    if layout.private_ids:
        kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(INNER_ZYGOTE_ID, INNER_ZYGOTE_ID, INNER_ZYGOTE_ID)
        os.setresuid(INNER_ZYGOTE_ID, INNER_ZYGOTE_ID, INNER_ZYGOTE_ID)


def build_root(taken: dict[str, int | str]) -> bool:
    """A tmpfs with the taken mounts, entered by pivot_root; the host's tree is detached. Runs as process 1 of the new
    PID namespace. Returns whether the kernel lets this user namespace have a /proc."""
    kernel.mount("tmpfs", HOME, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=1m")
    os.mkdir(f"{HOME}/old")
    for name in ("/proc", "/tmp", "/dev", "/etc"):  # noqa: S108
        os.mkdir(HOME + name, 0o755)
    has_proc = _mount_own_proc(f"{HOME}/proc")
    for path, content in taken.items():
        _place(HOME + path, content)
    for path, text in _FILES.items():
        with open(HOME + path, "w") as file:
            file.write(text)
    os.symlink(HOME, f"{HOME}/dev/shm")  # noqa: S108
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{HOME}/dev/{name}")
    os.symlink("/proc/self/fd", f"{HOME}/dev/fd")
    kernel.pivot_root(HOME, f"{HOME}/old")
    os.chdir("/")
    kernel.unmount("/old")
    os.rmdir("/old")
    kernel.mount(
        "none", "/", "", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    )
    return has_proc


def take_hostname() -> None:
    """The host's name is nobody's business."""
    _socket.sethostname("sandbox")


def _place(target: str, content: int | str) -> None:
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    if isinstance(content, str):
        os.symlink(content, target)
        return
    if stat.S_ISDIR(os.stat(content).st_mode):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.attach_mount(content, target)


_PROC_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def _mount_own_proc(target: str) -> bool:
    """The zygote's /proc. False where the container hides parts of its own: then the kernel refuses a fresh one, and
    programs have none."""
    try:
        kernel.mount("proc", target, "proc", _PROC_FLAGS)
    except PermissionError:
        return False
    _forbid_nested_namespaces(target)
    kernel.mount("none", target, "", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | _PROC_FLAGS)
    return True


def _forbid_nested_namespaces(proc: str) -> None:
    """No user namespace can be made below the jail's, whatever the seccomp filter says."""
    with contextlib.suppress(OSError):
        with open(f"{proc}/sys/user/max_user_namespaces", "w") as file:
            file.write("0")


def renounce() -> None:
    """Nothing that this process or its children execute can gain a capability or a set-user-id bit."""
    kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    kernel.drop_bounding_set()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


class RunLimits(NamedTuple):
    """The kernel's part of a run's limits."""

    cpu_seconds: int
    stack_bytes: int
    processes: int
    open_files: int
    file_bytes: int
    disk_bytes: int
    disk_files: int
    data_bytes: int
    """Private writable memory of one process; 0 for none, where a memory cgroup counts better."""


class Isolation:
    """What each run does to itself. Made once in the zygote, so that a run only makes system calls."""

    def __init__(self, layout: Layout, has_proc: bool) -> None:
        self._layout = layout
        self._has_proc = has_proc
        self._filter = kernel.Filter(seccomp.run_part())
        self._landlock_abi = kernel.landlock_abi()
        self._places = tuple(os.open(path, os.O_PATH | os.O_CLOEXEC) for path in ("/", "/dev", HOME))
        own = os.pidfd_open(os.getpid())
        self._new_namespace = (
            # that of the last run was the one for children: only from its own can the zygote make another
            kernel.call("the zygote's PID namespace", "setns", own, kernel.CLONE_NEWPID),
            kernel.call("a PID namespace", "unshare", kernel.CLONE_NEWPID),
        )
        self._prepared = functools.lru_cache(64)(self._prepare)
        kernel.Filter(seccomp.zygote_part()).load()

    def before_fork(self, limits: tuple[int, ...]) -> tuple[tuple[kernel.Call, ...], str]:
        """In the zygote: the next child is process 1 of a PID namespace of its own. ``limits``: RunLimits' fields.

        Returns the calls that isolate the child, which makes them itself: namespaces while it still has the power, then
        the power itself, then what may be asked of the kernel; and the path of a Python program.
        """
        kernel.perform(self._new_namespace)
        return self._prepared(limits), _PROGRAM

    def ended(self, path: str, living: list[int]) -> None:
        """In the zygote: the kernel has ended and freed everything that the run had."""

    def _prepare(self, fields: tuple[int, ...]) -> tuple[kernel.Call, ...]:
        limits = RunLimits(*fields)
        return (
            kernel.call("a mount namespace", "unshare", kernel.CLONE_NEWNS),
            *self._private_files(limits),
            *resource_limits(limits),
            *self._identity(),
            kernel.drop_capabilities_call(),
            *_landlock(self._landlock_abi, self._places),
            self._filter.call(),
        )

    def _private_files(self, limits: RunLimits) -> list[kernel.Call]:
        owner = f"mode=700,uid={INNER_PROGRAM_ID},gid={INNER_PROGRAM_ID}"
        options = f"{owner},size={limits.disk_bytes},nr_inodes={limits.disk_files}"
        calls = [kernel.mount_call("tmpfs", HOME, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)]
        if self._has_proc:
            calls.append(kernel.mount_call("proc", "/proc", "proc", _PROC_FLAGS | kernel.MS_RDONLY, "subset=pid"))
        return [*calls, kernel.call(f"entering {HOME}", "chdir", HOME.encode())]

    def _identity(self) -> list[kernel.Call]:
        calls = []
        if self._layout.private_ids:
            for function in ("setresgid", "setresuid"):
                calls.append(kernel.call(function, function, *(INNER_PROGRAM_ID,) * 3))
        return [
            *calls,
            # its own /proc, and the supervisor's view of its memory
            kernel.call("dumpable", "prctl", kernel.PR_SET_DUMPABLE, 1, 0, 0, 0),
            kernel.call("a process group", "setpgid", 0, 0),
        ]


def resource_limits(limits: RunLimits) -> list[kernel.Call]:
    """The limits that the kernel keeps for one process or one user id. One that is lower already stays."""
    values = {
        kernel.RLIMIT_CORE: 0,
        kernel.RLIMIT_CPU: limits.cpu_seconds,
        kernel.RLIMIT_STACK: limits.stack_bytes,
        kernel.RLIMIT_NPROC: limits.processes,
        kernel.RLIMIT_NOFILE: limits.open_files,
        kernel.RLIMIT_FSIZE: limits.file_bytes,
        kernel.RLIMIT_MEMLOCK: 0,
    }
    if limits.data_bytes:
        values[kernel.RLIMIT_DATA] = limits.data_bytes
    return [kernel.limit_call(which, min(value, kernel.hard_limit(which))) for which, value in values.items()]


def _landlock(abi: int, places: tuple[int, ...]) -> list[kernel.Call]:
    """Reading and executing everywhere in the small root, writing in /tmp and to devices; no TCP, no abstract sockets
    and no signals out of the run where the kernel can forbid them."""
    if not abi:
        return []
    files = LANDLOCK_FILES
    for version, right in ((2, _LANDLOCK_REFER), (3, _LANDLOCK_TRUNCATE), (5, _LANDLOCK_IOCTL)):
        if abi >= version:
            files |= right
    network = 3 if abi >= 4 else 0
    scoped = 3 if abi >= 6 else 0
    root, devices, home = places
    rules = [(LANDLOCK_READ, root), (LANDLOCK_READ | _LANDLOCK_WRITE_FILE, devices), (files, home)]
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    return [
        *kernel.reopen_calls(HOME, home),  # the run's own
        *kernel.landlock_calls((files, network, scoped), size, rules),
    ]


def has_private_ids() -> bool:
    """Whether this process is root and can become the jail's ids. False for an ordinary user, and for the root of a
    user namespace that has no other ids, whose real id is an ordinary one.

    Raises PermissionError for a root that is the host's and has no id to leave it for.
    """
    if os.geteuid() != 0:
        return False
    maps = [_id_map(name) for name in ("uid_map", "gid_map")]
    wanted = (ZYGOTE_ID, PROGRAM_ID)
    if all(any(inner <= min(wanted) and max(wanted) < inner + count for inner, _, count in rows) for rows in maps):
        return True
    if any(inner <= 0 < inner + count and outer == 0 for inner, outer, count in maps[0]):
        raise PermissionError(
            f"this root has no ids {ZYGOTE_ID} and {PROGRAM_ID} in its user namespace to run programs as"
        )
    return False


def _id_map(name: str) -> list[tuple[int, int, int]]:
    with open(f"/proc/self/{name}") as file:
        rows = [[int(number) for number in line.split()] for line in file]
    return [(inner, outer, count) for inner, outer, count in rows]


def interpreter_directories() -> tuple[str, ...]:
    """Where the running Python keeps its program, its library and the installed packages."""
    directories = {os.path.realpath(sys.base_prefix), sys.base_prefix}
    directories |= {path for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    return tuple(sorted(path for path in directories if path.startswith("/") and path not in ("/", "/usr")))
