"""Starting the zygote: the supervisor forks a stage, the stage enters the namespaces, and its child is their process 1.

The supervisor stays outside. It writes the id maps when it is root, puts the stage into the control group, and becomes
the zygote's parent when the stage ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import dataclass
from typing import Any, NoReturn

from sandbox import cgroup, jail, kernel, remedies, unsafe, zygote
from sandbox.verdict import SandboxUnavailable


@dataclass(frozen=True, slots=True)
class Plan:
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


def start(plan: Plan, inner: socket.socket, control: socket.socket, group: cgroup.Group | None) -> int:
    """The zygote's process id. It reports over ``inner`` whether it is ready. Raises SandboxUnavailable."""
    if not plan.unsafe and (missing := remedies.missing_in_kernel()):
        raise SandboxUnavailable(missing)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    stage = os.fork()
    if stage == 0:
        ours.close()
        control.close()
        _stage(plan, inner, theirs)
    theirs.close()
    with ours:
        try:
            return _escort(plan, stage, ours, group)
        except OSError as error:
            os.kill(stage, signal.SIGKILL)
            raise SandboxUnavailable(remedies.explain("preparing the jail", error)) from error
        finally:
            os.waitpid(stage, 0)


def _escort(plan: Plan, stage: int, stage_socket: socket.socket, group: cgroup.Group | None) -> int:
    """The supervisor's part in the steps of the stage; 0 when the stage gave up and said why to the control socket."""
    if group is not None:
        group.add(stage)
    stage_socket.sendall(b"1")
    if plan.layout.private_ids and not plan.unsafe and stage_socket.recv(1) == b"m":
        _map_private_ids(stage)
        stage_socket.sendall(b"1")
    answer = stage_socket.recv(64)
    if not answer.startswith(b"p"):
        return 0
    os.waitid(os.P_PID, stage, os.WEXITED | os.WNOWAIT)
    stage_socket.sendall(b"1")
    return int(answer[1:])


def _map_private_ids(pid: int) -> None:
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(f"{jail.INNER_ZYGOTE_ID} {jail.ZYGOTE_ID} 1\n{jail.INNER_PROGRAM_ID} {jail.PROGRAM_ID} 1\n")


def _map_own_id(uid: int, gid: int) -> None:
    texts = {
        "setgroups": "deny",
        "uid_map": f"{jail.INNER_PROGRAM_ID} {uid} 1",
        "gid_map": f"{jail.INNER_PROGRAM_ID} {gid} 1",
    }
    for name, text in texts.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _stage(plan: Plan, inner: socket.socket, parent: socket.socket) -> NoReturn:
    """Enters the namespaces and forks the zygote."""
    step = "waiting for the supervisor"
    try:
        parent.recv(1)
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


def _zygote(plan: Plan, inner: socket.socket, parent: socket.socket, taken: dict[str, int | str]) -> NoReturn:
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


def _refuse(inner: socket.socket, step: str, error: BaseException) -> NoReturn:
    try:
        text = remedies.explain(step, error) if isinstance(error, OSError) else f"{step}: {error}"
        inner.send(json.dumps({"refused": text}).encode())
    finally:
        os._exit(1)
