"""Starting the zygote: the supervisor starts a stage, which enters the namespaces; its child is their process 1.

The supervisor stays outside. It writes the id maps when it is root, puts the stage into the control group, and becomes
the zygote's parent when the stage ends.
"""

from __future__ import annotations

import os
import signal
import socket

from sandbox import bare, cgroup, jail, kernel, pages, remedies, wire
from sandbox.stage import ENVIRONMENT, Plan
from sandbox.verdict import SandboxUnavailable


def start(plan: Plan, inner: socket.socket, group: cgroup.Group | None) -> int:
    """The zygote's process id. It reports over ``inner`` whether it is ready. Raises SandboxUnavailable."""
    if not plan.unsafe and (missing := remedies.missing_in_kernel()):
        raise SandboxUnavailable(missing)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        for end in (inner, theirs):
            end.set_inheritable(True)
        command = bare.command("sandbox.stage", "main", inner.fileno(), theirs.fileno(), first=pages.TAKE_ARENAS)
        stage = os.posix_spawn(command[0], command, {**os.environ, **ENVIRONMENT})
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
    stage_socket.sendall(wire.pack(plan))
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
