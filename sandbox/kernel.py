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

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


Call = tuple[str, Any, tuple[Any, ...]]
"""A system call to make later: what it does, the C library's function, and its arguments as C takes them."""


def call(what: str, function: str, *arguments: Any) -> Call:
    return what, getattr(_libc, function), arguments


def perform(calls: Sequence[Call]) -> None:
    """Makes prepared calls in their order. A process that was just forked pays for every page it touches, and a loop
    over prepared calls touches the fewest."""
    for what, function, arguments in calls:
        if function(*arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Moves the caller (for CLONE_NEWPID: its next children) into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    _check(_libc.setns(descriptor, kind), "setns")


def fork() -> int:
    """The C library's fork without the interpreter's hooks, which cost more than the fork itself. Only for a process
    with one thread; the child calls what it needs of the hooks."""
    return _check(_libc_with_gil.fork(), "fork")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    perform([mount_call(source, target, kind, flags, data)])


def mount_call(source: str, target: str, kind: str, flags: int, data: str = "") -> Call:
    what = f"mount of {kind or source} on {target}"
    return call(what, "mount", source.encode(), target.encode(), kind.encode(), flags, data.encode() or None)


def limit_call(which: int, value: int) -> Call:
    """Sets the soft and the hard value of the resource limit ``which``."""
    return call(f"limit {which}", "setrlimit", which, ctypes.create_string_buffer(struct.pack("QQ", value, value), 16))


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


_CAPABILITY_HEADER = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0), 8)
_NO_CAPABILITIES = ctypes.create_string_buffer(24)


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
        self._descriptor = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, address), 16)

    def load(self) -> None:
        """Applies the filter to the calling process for good. Needs no_new_privs."""
        _check(_syscall(_NR_SECCOMP, 1, 0, self._descriptor), "seccomp")


def seccomp_available() -> bool:
    """Whether the kernel knows seccomp's filter mode and its KILL_PROCESS action."""
    action = ctypes.create_string_buffer(struct.pack("I", 0x80000000), 4)
    return bool(_syscall(_NR_SECCOMP, 2, 0, action) == 0)


def landlock_abi() -> int:
    """The Landlock ABI version, 0 where the kernel has none or has it disabled."""
    return max(0, int(_syscall(_NR_LANDLOCK_CREATE_RULESET, None, 0, 1)))


def landlock_attributes(
    handled_files: int, handled_network: int, scoped: int, size: int
) -> ctypes.Array[ctypes.c_char]:
    """A ``struct landlock_ruleset_attr`` of ``size`` bytes."""
    return ctypes.create_string_buffer(struct.pack("QQQ", handled_files, handled_network, scoped)[:size], size)


def landlock_ruleset(attributes: ctypes.Array[ctypes.c_char]) -> int:
    return _check(_syscall(_NR_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0), "landlock_create_ruleset")


def landlock_rule(access: int, directory: int) -> ctypes.Array[ctypes.c_char]:
    """A ``struct landlock_path_beneath_attr``."""
    return ctypes.create_string_buffer(struct.pack("=Qi", access, directory), 12)


def landlock_allow(ruleset: int, rule: ctypes.Array[ctypes.c_char]) -> None:
    _check(_syscall(_NR_LANDLOCK_ADD_RULE, ruleset, 1, rule, 0), "landlock_add_rule")


def landlock_restrict(ruleset: int) -> None:
    _check(_syscall(_NR_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
