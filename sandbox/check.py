"""What this machine can isolate, each mechanism with yes or no.

Namespaces are tried one by one in a child process; the rest is asked of the kernel. Then a real jail is started,
because only that proves that the pieces work together.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import Any

from sandbox import bare, client, kernel, languages, remedies
from sandbox.verdict import SandboxUnavailable

_NAMESPACES = {
    "user": kernel.CLONE_NEWUSER,
    "mount": kernel.CLONE_NEWNS,
    "pid": kernel.CLONE_NEWPID,
    "network": kernel.CLONE_NEWNET,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "cgroup": kernel.CLONE_NEWCGROUP,
}


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One line of the report."""

    name: str
    available: bool
    required: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All mechanisms, and whether programs can be run isolated; ``refusal`` says why not and what helps."""

    mechanisms: tuple[Mechanism, ...]
    languages: dict[str, str]
    """Each language and, where it is missing, what to install."""
    refusal: str = ""


def report() -> Report:
    """Tries everything on this machine; takes a fraction of a second."""
    mechanisms = [_kernel(), *_namespaces(), _seccomp(), _landlock()]
    found: dict[str, Any] = {}
    refusal = ""
    worker = client.WorkerProcess(unsafe=False)
    try:
        found = worker.ready()
    except SandboxUnavailable as error:
        refusal = str(error)
    finally:
        worker.close()
    mechanisms.append(Mechanism("isolated process", bool(found), True, refusal or "a jail was started and ended"))
    if found:
        mechanisms += [_proc(found), *_group(found["group"]), _identity(found["private_ids"])]
    return Report(tuple(mechanisms), languages.available(), refusal)


def _kernel() -> Mechanism:
    missing = remedies.missing_in_kernel()
    return Mechanism("kernel", not missing, True, missing or f"Linux {os.uname().release} on {kernel.MACHINE}")


def _namespaces() -> list[Mechanism]:
    command = bare.command("sandbox.check", "print_namespaces")
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    errors: dict[str, str] = json.loads(answer.stdout) if answer.returncode == 0 else {}
    return [
        Mechanism(f"{name} namespace", errors.get(name) == "", True, errors.get(name, answer.stderr.strip()[-200:]))
        for name in _NAMESPACES
    ]


def print_namespaces(_: list[str]) -> None:
    """Prints, as JSON, each kind of namespace and the error of making one; empty for none."""
    print(json.dumps({name: _try_namespace(flag) for name, flag in _NAMESPACES.items()}))


def _try_namespace(flag: int) -> str:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.unshare(kernel.CLONE_NEWUSER | flag)
        except OSError as error:
            os.write(writing, remedies.explain_briefly(error).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with open(reading, encoding="utf-8") as file:
        return file.read()


def _seccomp() -> Mechanism:
    return Mechanism("seccomp filter", kernel.seccomp_available(), True, "an allow-list of system calls")


def _landlock() -> Mechanism:
    version = kernel.landlock_abi()
    detail = f"ABI {version}" if version else "not in this kernel; the mount namespace alone confines files"
    return Mechanism("Landlock", version > 0, False, detail)


def _proc(found: dict[str, Any]) -> Mechanism:
    hidden = "the container hides parts of its own, so programs have none (systempaths=unconfined gives them one)"
    return Mechanism("private /proc", found["proc"], False, "" if found["proc"] else hidden)


def _group(group: dict[str, Any]) -> list[Mechanism]:
    version = f"version {group['version']}"
    memory = "not writable; substitute: RLIMIT_DATA and a watch every 50 ms"
    processes = "not writable; substitute: RLIMIT_NPROC in the jail's own user namespace"
    return [
        Mechanism("memory control group", group["memory"], False, version if group["memory"] else memory),
        Mechanism("process control group", group["processes"], False, version if group["processes"] else processes),
    ]


def _identity(separate: bool) -> Mechanism:
    detail = "programs run under a real id of their own" if separate else "programs run under your own user id"
    return Mechanism("separate user id", separate, False, detail)
