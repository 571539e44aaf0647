"""The kernel's interface: the system calls that Python's standard library lacks, each as one function.

Every function raises OSError with the kernel's errno. Numbers and structures are those of the Linux UAPI headers for
x86_64 and aarch64; nothing is compiled, so a machine without a C compiler can run this.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from typing import Any

MACHINE = os.uname().machine
SUPPORTED_MACHINES = ("x86_64", "aarch64")
_IS_X86 = MACHINE == "x86_64"

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 1 << 14, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 1, 4, 8, 24
PR_SET_SECUREBITS, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 28, 36, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECURE_ALL_LOCKED = 0xEF  # NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off, NO_CAP_AMBIENT_RAISE, each with its lock

_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _MOVE_MOUNT_F_EMPTY_PATH = 1, os.O_CLOEXEC, 4

_NR_PIVOT_ROOT = 155 if _IS_X86 else 41
_NR_CAPSET = 126 if _IS_X86 else 91
_NR_SECCOMP = 317 if _IS_X86 else 277
_NR_OPEN_TREE, _NR_MOVE_MOUNT, _NR_MOUNT_SETATTR = 428, 429, 442
_NR_LANDLOCK_CREATE_RULESET, _NR_LANDLOCK_ADD_RULE, _NR_LANDLOCK_RESTRICT_SELF = 444, 445, 446

_libc = ctypes.PyDLL(None)
"""Keeps the interpreter's lock during a call and errno where the C library has it: the least that a run can pay."""
_libc.__errno_location.restype = ctypes.POINTER(ctypes.c_int)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        raise _last_error(what)
    return result


def _last_error(what: str) -> OSError:
    number = _libc.__errno_location().contents.value
    return OSError(number, f"{what}: {os.strerror(number)}")


Call = tuple[str, Any, tuple[Any, ...], ctypes.c_int | None]
"""A system call to make later: what it does, the C library's function, its arguments as C takes them, and where to
put the result, which later calls may take as an argument."""


def call(what: str, function: str, *arguments: Any, result: ctypes.c_int | None = None) -> Call:
    return what, _libc[function], arguments, result


def perform(calls: Sequence[Call]) -> None:
    """Makes prepared calls in their order. A process that was just forked pays for every page it touches, and a loop
    over prepared calls touches the fewest."""
    for what, function, arguments, result in calls:
        value = function(*arguments)
        if value < 0:
            raise _last_error(what)
        if result is not None:
            result.value = value


NOTHING = (call("nothing", "getpid", result=ctypes.c_int()),)
"""Calls without effect, for rehearsals."""


def unshare(flags: int) -> None:
    """Moves the caller (for CLONE_NEWPID: its next children) into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def fork() -> int:
    """The C library's fork without the interpreter's hooks, which cost more than the fork itself. Only for a process
    with one thread; the child calls what it needs of the hooks."""
    return _check(_libc.fork(), "fork")


_status, _usage = ctypes.c_int(), ctypes.create_string_buffer(256)
_STATUS_PLACE = ctypes.byref(_status)
_USAGE_START = struct.Struct("5q")
"""``struct rusage``: seconds and microseconds as user and as system, and the peak memory in KiB."""


def wait(pid: int) -> tuple[int, float, int]:
    """Takes a child that has ended: its exit status (that of a signal is negative), CPU seconds and peak memory in KiB.
    ``os.wait4`` looks up a module for each."""
    _check(_libc.wait4(pid, _STATUS_PLACE, 0, _usage), "wait4")
    user, user_us, system, system_us, peak = _USAGE_START.unpack_from(_usage)
    return os.waitstatus_to_exitcode(_status.value), user + system + (user_us + system_us) / 1e6, peak


def trim_memory() -> None:
    """Hands the C library's free pages back, so that no fork copies them; where the library can (glibc)."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def memory(function: str, *arguments: int) -> int:
    """The C library's ``mmap``, ``mremap``, ``munmap``, ``mprotect`` or ``madvise``, with addresses as numbers."""
    call = getattr(_libc, function)
    call.argtypes, call.restype = [ctypes.c_ssize_t] * len(arguments), ctypes.c_ssize_t
    return _check(call(*arguments), function)


def address_of(function: str) -> int:
    """Where a function of the interpreter's or the C library's lies."""
    return ctypes.cast(getattr(_libc, function), ctypes.c_void_p).value or 0


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    perform([mount_call(source, target, kind, flags, data)])


def mount_call(source: str, target: str, kind: str, flags: int, data: str = "") -> Call:
    what = f"mount of {kind or source} on {target}"
    return call(what, "mount", source.encode(), target.encode(), kind.encode(), flags, data.encode() or None)


RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_CORE = 0, 1, 2, 3, 4
RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_MEMLOCK = 6, 7, 8
"""Python's ``resource`` has these and would be one more library that every run carries."""


def hard_limit(which: int) -> int:
    """The hard value of a resource limit; without one, a number above all others."""
    found = ctypes.create_string_buffer(16)
    _check(_libc.getrlimit(which, found), f"limit {which}")
    return int(struct.unpack("QQ", found)[1])


def limit_call(which: int, value: int) -> Call:
    """Sets the soft and the hard value of the resource limit ``which``."""
    return call(f"limit {which}", "setrlimit", which, struct.pack("QQ", value, value))


def unmount(target: str) -> None:
    """Detaches a mount and everything below it."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"unmounting {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    _check(_syscall(_NR_PIVOT_ROOT, new_root.encode(), put_old.encode()), "pivot_root")


def clone_mount(path: str) -> int:
    """A descriptor of a detached copy of the mount tree at ``path`` (open_tree)."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    return _check(_syscall(_NR_OPEN_TREE, _AT_FDCWD, path.encode(), flags), f"open_tree of {path}")


def restrict_mount(descriptor: int, attributes: int) -> None:
    """Sets mount attributes (MOUNT_ATTR_*) on a detached mount tree, recursively."""
    attr = ctypes.create_string_buffer(struct.pack("QQQQ", attributes, 0, 0, 0), 32)
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    _check(_syscall(_NR_MOUNT_SETATTR, descriptor, b"", flags, attr, 32), "mount_setattr")


def attach_mount(descriptor: int, target: str) -> None:
    """Attaches a detached mount tree at ``target`` (move_mount) and closes the descriptor."""
    arguments = (descriptor, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH)
    _check(_syscall(_NR_MOVE_MOUNT, *arguments), f"move_mount on {target}")
    os.close(descriptor)


def prctl(option: int, first: int = 0, second: int = 0) -> int:
    return _check(_libc.prctl(option, first, second, 0, 0), f"prctl {option}")


def drop_capabilities_call() -> Call:
    """Empties the effective, permitted and inheritable sets of the calling thread."""
    return call("capset", "syscall", _NR_CAPSET, _CAPABILITY_HEADER, _NO_CAPABILITIES)


_CAPABILITY_HEADER = struct.pack("Ii", 0x20080522, 0)
_NO_CAPABILITIES = bytes(24)


def drop_bounding_set() -> None:
    """Empties the capability bounding set, so that no later exec can gain a capability."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            return  # past the kernel's last capability


class Filter:
    """A classic BPF program for seccomp, kept in memory so that loading it costs one system call."""

    def __init__(self, program: bytes) -> None:
        self._instructions = ctypes.create_string_buffer(program, len(program))
        address = ctypes.addressof(self._instructions)
        self._descriptor = struct.pack("HxxxxxxQ", len(program) // 8, address)

    def load(self) -> None:
        """Applies the filter to the calling process for good. Needs no_new_privs."""
        perform([self.call()])

    def call(self) -> Call:
        """``load``, for later. This object has to live until then."""
        return call("seccomp", "syscall", _NR_SECCOMP, 1, 0, self._descriptor)


def seccomp_available() -> bool:
    """Whether the kernel knows seccomp's filter mode and its KILL_PROCESS action."""
    action = ctypes.create_string_buffer(struct.pack("I", 0x80000000), 4)
    return bool(_syscall(_NR_SECCOMP, 2, 0, action) == 0)


def landlock_abi() -> int:
    """The Landlock ABI version, 0 where the kernel has none or has it disabled."""
    return max(0, int(_syscall(_NR_LANDLOCK_CREATE_RULESET, None, 0, 1)))


def landlock_calls(attributes: Sequence[int], size: int, rules: Sequence[tuple[int, int]]) -> list[Call]:
    """Confines the caller for good. ``attributes`` are those of ``struct landlock_ruleset_attr``, of which the kernel's
    ABI has ``size`` bytes; a rule is an access and a descriptor of the place below which it is allowed."""
    ruleset = ctypes.c_int()
    header = struct.pack("QQQ", *attributes)[:size]
    return [
        call("landlock_create_ruleset", "syscall", _NR_LANDLOCK_CREATE_RULESET, header, size, 0, result=ruleset),
        *(
            call("landlock_add_rule", "syscall", _NR_LANDLOCK_ADD_RULE, ruleset, 1, struct.pack("=Qi", *rule), 0)
            for rule in rules
        ),
        call("landlock_restrict_self", "syscall", _NR_LANDLOCK_RESTRICT_SELF, ruleset, 0),
    ]


def reopen_calls(path: str, descriptor: int) -> list[Call]:
    """Makes ``descriptor`` name what ``path`` is when the calls are made."""
    opened = ctypes.c_int()
    return [
        call(f"opening {path}", "open", path.encode(), os.O_PATH | os.O_CLOEXEC, result=opened),
        call(f"a descriptor of {path}", "dup2", opened, descriptor),
    ]
