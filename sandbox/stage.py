"""The way into the jail: a fresh interpreter enters the namespaces and forks their process 1, which becomes the zygote.

Every run is a fork of what this program holds in the end and pays for the size of it. So it imports what a run may need
and no more: ``dataclasses``, say, would bring a disassembler along.
"""

from __future__ import annotations

import _socket
import json
import os
import signal
from typing import Any, NamedTuple, NoReturn

from sandbox import jail, kernel, pages, program, remedies, unsafe, zygote

ENVIRONMENT = {"LD_BIND_NOW": "1"}
"""Symbols are looked up once, here, and not again in every run. Programs start without it."""


class Plan(NamedTuple):
    """What kind of zygote to start."""

    unsafe: bool
    """Run without isolation, by the user's word."""
    modules: tuple[str, ...]
    """Python modules to import beforehand."""
    paths: tuple[str, ...]
    """Folders of installed packages, for sys.path."""
    layout: jail.Layout
    folder: str = ""
    """Where runs without isolation have their folders."""


def main(arguments: list[str]) -> None:
    """``stage CONTROL PARENT``, two sockets: the zygote's, and the one on which the supervisor sends the plan and
    takes part in the steps."""
    inner, parent = (_socket.socket(fileno=number) for number in _moved_up(arguments))
    step = "arranging memory"
    try:
        pages.use_huge_code()
        step = "waiting for the supervisor"
        for name in ENVIRONMENT:
            del os.environ[name]
        zygote.load_modes()
        plan = _receive_plan(parent)
        taken: dict[str, int | str] = {}
        if not plan.unsafe:
            uid, gid = os.getuid(), os.getgid()
            step = "entering new namespaces"
            jail.namespaces()
            step = "mapping unprivileged ids"
            if plan.layout.private_ids:
                parent.sendall(b"m")
                parent.recv(1)
            else:
                _map_own_id(uid, gid)
            step = "taking the mounts to show"
            taken = jail.take_mounts(plan.layout)
            step = "leaving the real user id"
            jail.take_unprivileged_id(plan.layout)
        step = "forking the zygote"
        pid = os.fork()
        if pid == 0:
            _zygote(plan, inner, parent, taken)
        parent.sendall(f"p{pid}".encode())
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - told to the supervisor, then the end
        _refuse(inner, step, error)


def _moved_up(descriptors: list[str]) -> list[int]:
    """Copies of descriptors above the numbers that a run's own will have, all of which are left to /dev/null."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= program.PEER:
        pass
    moved = [os.dup(int(descriptor)) for descriptor in descriptors]
    for descriptor in descriptors:
        os.dup2(null, int(descriptor))
    os.close(null)
    return moved


def _receive_plan(parent: _socket.socket) -> Plan:
    is_unsafe, modules, paths, layout, folder = program.receive(parent.fileno())
    return Plan(is_unsafe, tuple(modules), tuple(paths), jail.Layout(*layout), folder)


def _map_own_id(uid: int, gid: int) -> None:
    texts = {
        "setgroups": "deny",
        "uid_map": f"{jail.INNER_PROGRAM_ID} {uid} 1",
        "gid_map": f"{jail.INNER_PROGRAM_ID} {gid} 1",
    }
    for name, text in texts.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _zygote(plan: Plan, inner: _socket.socket, parent: _socket.socket, taken: dict[str, int | str]) -> NoReturn:
    """Finishes the jail from inside and serves."""
    step = "waiting for the stage to end"
    try:
        parent.recv(1)  # the stage is gone: this process is the supervisor's child now
        parent.close()
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        ready: dict[str, Any] = {"unsafe": plan.unsafe, "proc": True, "landlock": 0}
        isolation: jail.Isolation | unsafe.NoIsolation
        if plan.unsafe:
            isolation = unsafe.NoIsolation(plan.folder)
        else:
            step = "building the root"
            ready["proc"] = has_proc = jail.build_root(taken)
            jail.take_hostname()
            step = "giving up privileges"
            jail.renounce()
            isolation = jail.Isolation(plan.layout, has_proc)
            ready["landlock"] = kernel.landlock_abi()
        step = "loading modules"
        _leave_standard_streams()
        zygote.use_interpreter(plan.paths, str if plan.unsafe else jail.shown_at)
        zygote.preload(plan.modules)
        loop = zygote.Zygote(inner, isolation)
        inner.send(json.dumps({"ready": ready}).encode())
        loop.serve()
    except BaseException as error:  # noqa: BLE001
        _refuse(inner, step, error)
    os._exit(0)


def _leave_standard_streams() -> None:
    """Standard streams are nothing, so that no run starts with a descriptor of ours."""
    null = os.open(os.devnull, os.O_RDWR)
    for target in range(3):
        os.dup2(null, target)
    os.close(null)


def _refuse(inner: _socket.socket, step: str, error: BaseException) -> NoReturn:
    try:
        text = remedies.explain(step, error) if isinstance(error, OSError) else f"{step}: {error}"
        inner.send(json.dumps({"refused": text}).encode())
    finally:
        os._exit(1)
