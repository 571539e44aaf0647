"""The worker: one process between an owner (a trainer, a Ray actor, a command) and one jail.

It takes one submission at a time from the owner's socket and answers with a verdict. It ends when the owner ends or
closes the socket, and the jail ends with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
from typing import Any

_HEADER = struct.Struct("!I")


class _OwnerGone(Exception):
    """Nobody waits for an answer any more."""


class Worker:
    """The owner's socket, its process, and the judge."""

    def __init__(self, owner: socket.socket, owner_pid: int) -> None:
        self._owner = owner
        self._owner_process = os.pidfd_open(owner_pid)

    def serve(self, hello: dict[str, Any]) -> None:
        """Answers submissions until the owner is gone."""
        from sandbox import jail, remedies
        from sandbox.judge import Judge
        from sandbox.stage import Plan
        from sandbox.supervisor import Supervisor
        from sandbox.verdict import SandboxUnavailable

        try:
            layout = jail.Layout(
                directories=tuple(sorted({*jail.interpreter_directories(), *hello["directories"]})),
                private_ids=not hello["unsafe"] and jail.has_private_ids(),
            )
            supervisor = Supervisor(Plan(hello["unsafe"], tuple(hello["modules"]), tuple(hello["paths"]), layout))
        except PermissionError as error:
            self._send({"refused": remedies.sentence(str(error), "run as an ordinary user")})
            return
        except SandboxUnavailable as error:
            self._send({"refused": str(error)})
            return
        try:
            self._send(
                {
                    "ready": {
                        **supervisor.mechanisms,
                        "group": _describe(supervisor.group),
                        "private_ids": layout.private_ids,
                    }
                }
            )
            supervisor.on_readable(self._owner.fileno(), self._owner_ended)
            supervisor.on_readable(self._owner_process, self._owner_ended)
            judge = Judge(supervisor)
            while (request := self._next_request()) is not None:
                self._answer(request, judge, supervisor)
        except _OwnerGone:
            pass
        finally:
            supervisor.close()

    def _answer(self, request: dict[str, Any], judge: Any, supervisor: Any) -> None:
        from sandbox.supervisor import JailBroken
        from sandbox.verdict import Verdict, plain

        try:
            verdict = judge.judge(request)
        except JailBroken as error:
            verdict = judge.after_break(error)
            supervisor.restart()
        except _OwnerGone:
            raise
        except Exception as error:  # noqa: BLE001 - a mistake of ours costs one verdict, not the worker
            verdict = Verdict("sandbox_error", detail=f"{type(error).__name__}: {error}")
            supervisor.restart()
        self._send({"verdict": plain(verdict)})

    def _next_request(self) -> dict[str, Any] | None:
        poll = select.poll()
        poll.register(self._owner, select.POLLIN)
        poll.register(self._owner_process, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._owner.fileno() in ready:
                return self._receive()
            if ready:
                return None

    def _owner_ended(self) -> None:
        """While a run is in progress the owner sends nothing: a readable socket is a closed one."""
        raise _OwnerGone

    def _receive(self) -> dict[str, Any] | None:
        from sandbox import wire

        header = self._read(_HEADER.size)
        if header is None:
            return None
        body = self._read(_HEADER.unpack(header)[0])
        request = None if body is None else wire.unpack(body)
        return request if isinstance(request, dict) else None

    def _read(self, count: int) -> bytes | None:
        chunks = []
        while count:
            try:
                chunk = self._owner.recv(min(count, 1 << 20))
            except OSError:
                return None
            if not chunk:
                return None
            chunks.append(chunk)
            count -= len(chunk)
        return b"".join(chunks)

    def _send(self, message: dict[str, Any]) -> None:
        from sandbox import wire

        try:
            self._owner.sendall(wire.pack(message))
        except OSError:
            raise _OwnerGone from None


def _describe(group: Any) -> dict[str, Any]:
    """The control group's part of the mechanisms; version 0 is none."""
    if group is None:
        return {"version": 0, "memory": False, "processes": False}
    return {"version": group.version, "memory": group.counts_memory, "processes": group.counts_processes}


def main(arguments: list[str]) -> None:
    """``worker DESCRIPTOR OWNER_PID``: serves the owner at the other end of the socket."""
    sys.executable = os.path.realpath(sys.executable)  # what a virtual environment points to
    descriptor, owner_pid = int(arguments[0]), int(arguments[1])
    with contextlib.suppress(ProcessLookupError, _OwnerGone):
        worker = Worker(socket.socket(fileno=descriptor), owner_pid)
        hello = worker._receive()
        if hello is not None:
            worker.serve(hello)
    sys.exit(0)
