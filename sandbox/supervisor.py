"""The process outside: starts the jail, gives each run its descriptors, and enforces deadlines and totals from outside.

One supervisor owns one zygote. It is small and single-threaded, never runs candidate code, and reads what comes out of
the jail as bounded bytes. When it ends, for whatever reason, the kernel ends the zygote and with it every run.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import json
import marshal
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sandbox import cgroup, launch, stage, watch, wire, zygote
from sandbox.verdict import Limits, SandboxUnavailable

_START_SECONDS = 30.0
_KILL_SECONDS = 15.0
_LINGER_SECONDS = 2.0
"""How long the streams of a run that has ended may stay open; only without isolation can somebody hold them."""
_WATCH_SECONDS = 0.05
_UNHEARD_SECONDS = 0.01
"""How old a run becomes before its streams are listened to. Most have ended by then and are read once, at their end."""
_LAST_READS = 8
_READ_BYTES = 1 << 16
_MB = 1 << 20


class JailBroken(RuntimeError):
    """The zygote ended or does not answer. ``run`` is the one that would not end, where that is the reason."""

    def __init__(self, message: str, run: Run | None = None) -> None:
        super().__init__(message)
        self.run = run


@dataclass
class Run:
    """One isolated process, as seen from outside."""

    number: int
    limits: Limits
    deadline: float
    started: float
    channel: _socket.socket | None
    answer_bytes: int
    """How much it may say on the channel at a time."""
    reader: wire.FrameReader
    output_left: int
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    messages: list[Any] = field(default_factory=list)
    answer_left: int = 0
    """Bytes that it may still say before it is asked again."""
    outgoing: bytearray = field(default_factory=bytearray)
    exit_status: int | None = None
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    ended: float = 0.0
    exceeded: str = ""
    """The name of the limit that ended it, empty while none did."""
    why: str = ""
    failed_setup: str = ""
    """Why it could not be isolated; nothing of the candidate's ran."""
    ready: bool = False
    """It has defined its functions and takes calls."""
    heard: bool = False
    """Its streams are listened to while it runs."""
    crowded: bool = False
    """It was seen with as many processes and threads as it may have."""
    descriptors: set[int] = field(default_factory=set)

    @property
    def over(self) -> bool:
        """It has exited and everything it wrote has been read."""
        return self.exit_status is not None and not self.descriptors


class Supervisor:
    """Owns the jail; ``start`` begins a run, ``wait`` serves all runs until something is so."""

    def __init__(self, plan: stage.Plan) -> None:
        """Starts the jail. Raises SandboxUnavailable with the reason and the remedy."""
        self._plan = plan._replace(folder=_temporary_folder()) if plan.unsafe else plan
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._runs: dict[int, Run] = {}
        self._next_number = 0
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.group = None if plan.unsafe else cgroup.create()
        self.mechanisms: dict[str, Any] = {}
        self._launch()

    # ---- the jail

    def _launch(self) -> None:
        self._control, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._zygote_pid = launch.start(self._plan, inner, self.group)
        inner.close()
        self._control.settimeout(_START_SECONDS)
        try:
            message = json.loads(self._control.recv(_READ_BYTES) or b"{}")
        except (TimeoutError, ValueError):
            message = {}
        if "ready" not in message:
            raise SandboxUnavailable(message.get("refused", "the jail did not start, and did not say why"))
        self.mechanisms = message["ready"]
        self._control.setblocking(False)
        self.on_readable(self._control.fileno(), self._on_zygote)

    def close(self) -> None:
        self._end_zygote()
        if self.group is not None:
            self.group.remove()
        if self._plan.folder:
            import shutil

            shutil.rmtree(self._plan.folder, ignore_errors=True)

    def _end_zygote(self) -> None:
        if self._handlers.pop(self._control.fileno(), None) is not None:
            self._poll.unregister(self._control.fileno())
        self._control.close()
        try:
            os.kill(self._zygote_pid, signal.SIGKILL)
            os.waitpid(self._zygote_pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass

    def restart(self) -> None:
        """A new jail in place of a broken one; runs in progress are over."""
        self._end_zygote()
        for run in list(self._runs.values()):
            self.discard(run)
        self._launch()

    # ---- runs

    def start(
        self,
        job: dict[str, Any],
        limits: Limits,
        *,
        stdin: bytes = b"",
        seconds: float | None = None,
        quiet: bool = False,
        peer: socket.socket | None = None,
        answer_bytes: int = 0,
        talks: bool = False,
    ) -> Run:
        """Begins a run that does ``job``, for at most ``seconds`` of real time (by default its limit).

        A ``quiet`` run's streams are not kept. ``peer`` is one more descriptor for it. ``answer_bytes`` bounds what it
        says on the channel at a time, in place of ``output_kb``. What it says before its end matters if it ``talks``.
        Raises JailBroken.
        """
        now = time.monotonic()
        room = answer_bytes or limits.output_kb * 1024 + 4096
        run = Run(
            number=self._next_number,
            limits=limits,
            deadline=now + (limits.wall_seconds if seconds is None else seconds),
            started=now,
            channel=None,
            answer_bytes=room,
            reader=wire.FrameReader(room),
            output_left=limits.output_kb * 1024,
        )
        self._next_number += 1
        self._runs[run.number] = run
        theirs = [_stdin(stdin) if stdin else os.dup(self._null)]
        for buffer in (run.stdout, run.stderr):
            theirs.append(os.dup(self._null) if quiet else self._capture(run, buffer))
        run.channel, inner = _socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)  # the plain kind: two calls fewer
        theirs.append(inner.detach())
        if peer is not None:
            theirs.append(os.dup(peer.fileno()))
        try:
            message = marshal.dumps((run.number, self._kernel_limits(limits)))
            passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(theirs)}i", *theirs))
            self._control.sendmsg([message], [passed])
        except OSError as error:
            raise JailBroken(f"the zygote takes no run: {error}") from None
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        run.channel.setblocking(False)
        run.descriptors.add(run.channel.fileno())
        self._handlers[run.channel.fileno()] = lambda: self._on_channel(run)
        self._queue(run, wire.pack_job(job))
        if talks or run.outgoing:
            self._hear(run)
        return run

    def _kernel_limits(self, limits: Limits) -> tuple[int, ...]:
        group = self.group
        data = 0 if group is not None and group.counts_memory else limits.memory_mb + limits.stack_mb * 8
        if group is not None and group.counts_processes:
            # the group has to refuse first, for it counts that it did; to the rlimit a process that is still being made
            # counts before it does to the group, and each of those that the group allows may be making one
            processes = 2 * (limits.processes + cgroup.OWN_PROCESSES)
        else:
            # the zygote and the tests' process have the same id
            processes = limits.processes + (0 if self._plan.layout.private_ids else cgroup.OWN_PROCESSES)
        return (
            int(limits.cpu_seconds) + 1,
            limits.stack_mb * _MB,
            processes,
            limits.open_files,
            limits.file_mb * _MB,
            limits.disk_mb * _MB,
            limits.disk_files,
            data * _MB,
        )

    def _capture(self, run: Run, buffer: bytearray) -> int:
        """A pipe whose reading end fills ``buffer``; returns the writing end."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        run.descriptors.add(reading)
        self._handlers[reading] = lambda: self._on_output(run, reading, buffer)
        return writing

    def _hear(self, run: Run) -> None:
        """From now on its streams are served by ``wait``."""
        if not run.heard:
            run.heard = True
            for descriptor in run.descriptors:
                self._poll.register(descriptor, select.POLLIN)
            self._flush(run)

    def _hear_the_last(self, run: Run) -> None:
        """Reads what an ended run left in its streams; ``wait`` serves those that somebody else still holds."""
        for descriptor in list(run.descriptors):
            for _ in range(_LAST_READS):
                if descriptor in run.descriptors:
                    self._handlers[descriptor]()
        self._hear(run)

    def send(self, run: Run, message: Any) -> None:
        """Queues a message for the run's channel."""
        self._queue(run, wire.pack(message))

    def _queue(self, run: Run, frame: bytes) -> None:
        run.answer_left = run.answer_bytes
        run.outgoing += frame
        self._flush(run)

    def kill(self, run: Run, exceeded: str, why: str) -> None:
        """Ends all processes of the run; the reason is that of the first call, and counts for one that has ended."""
        if not run.exceeded:
            run.exceeded, run.why = exceeded, why
            if run.exit_status is None:
                run.deadline = time.monotonic() + _KILL_SECONDS
                self._tell_end(run.number)

    def discard(self, run: Run) -> None:
        """Forgets the run and closes what belonged to it."""
        for descriptor in list(run.descriptors):
            self._close(run, descriptor)
        self._runs.pop(run.number, None)

    def finish(self, run: Run) -> Run:
        """Kills the run if it is alive, waits for its end and forgets it."""
        if run.exit_status is None:
            self.kill(run, "killed", "")
        self.wait(lambda: run.over)
        self.discard(run)
        return run

    def wait(self, condition: Callable[[], bool]) -> None:
        """Serves everything until ``condition`` holds. Raises JailBroken."""
        next_watch = time.monotonic() + _WATCH_SECONDS
        while not condition():
            now = time.monotonic()
            if now >= next_watch:
                self._watch()
                next_watch = now + _WATCH_SECONDS
            self._enforce_deadlines(now)
            until = next_watch
            for run in self._runs.values():
                if run.exit_status is None:
                    until = min(until, run.deadline, next_watch if run.heard else run.started + _UNHEARD_SECONDS)
            for descriptor, _ in self._poll.poll(max(0.0, (until - now) * 1000 + 0.5)):
                handler = self._handlers.get(descriptor)
                if handler is not None:
                    handler()

    def on_readable(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Serves a descriptor of the caller's while waiting."""
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    # ---- events

    def _enforce_deadlines(self, now: float) -> None:
        for run in list(self._runs.values()):
            if not run.heard and now >= run.started + _UNHEARD_SECONDS:
                self._hear(run)
            if run.exit_status is None and now >= run.deadline:
                if run.exceeded:
                    raise JailBroken(f"a killed run did not end within {_KILL_SECONDS:g} s", run)
                self._watch()  # on a busy machine nobody may have looked since the run began
                self.kill(run, "wall_seconds", f"still running after {now - run.started:.2f} s")
            elif run.exit_status is not None and now - run.ended > _LINGER_SECONDS:
                for descriptor in list(run.descriptors):
                    self._close(run, descriptor)

    def _watch(self) -> None:
        """Totals over all processes of the jail, which no rlimit sees."""
        running = [run for run in self._runs.values() if run.exit_status is None and not run.exceeded]
        if not running:
            return
        usage = watch.usage_below(self._zygote_pid, min(run.limits.memory_mb for run in running) * _MB)
        for run in running:
            run.peak_bytes = max(run.peak_bytes, usage.memory_bytes)
            run.crowded |= usage.tasks >= run.limits.processes
            if usage.cpu_seconds > run.limits.cpu_seconds:
                self.kill(run, "cpu_seconds", f"used more than {run.limits.cpu_seconds:g} s of CPU time")
            elif usage.memory_bytes > run.limits.memory_mb * _MB:
                self.kill(run, "memory_mb", f"used {usage.memory_bytes // _MB} MiB")

    def _on_zygote(self) -> None:
        try:
            data = self._control.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            raise JailBroken("the zygote ended")
        if data.startswith(b"{"):
            message = json.loads(data)
            if (run := self._runs.get(message["run"])) is not None:
                run.failed_setup = message["failed"]
            return
        _, number, status, cpu_seconds, peak_kb = zygote.ENDED.unpack(data)
        if (run := self._runs.get(number)) is not None:
            run.exit_status = status
            run.cpu_seconds = cpu_seconds
            run.peak_bytes = max(run.peak_bytes, peak_kb * 1024)
            run.ended = time.monotonic()
            self._hear_the_last(run)

    def _on_output(self, run: Run, descriptor: int, buffer: bytearray) -> None:
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close(run, descriptor)
            return
        run.output_left -= len(data)
        if run.output_left < 0:
            self.kill(run, "output_kb", f"wrote more than {run.limits.output_kb} KiB")
        else:
            buffer += data

    def _on_channel(self, run: Run) -> None:
        assert run.channel is not None
        if run.outgoing:
            self._flush(run)
        try:
            data = run.channel.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ECONNRESET:
                raise
            data = b""
        if not data:
            self._close(run, run.channel.fileno())
            return
        run.answer_left -= len(data)
        if run.answer_left < 0:
            self.kill(run, "output_kb", f"answered with more than {run.limits.output_kb} KiB")
            return
        try:
            run.messages += run.reader.feed(data)
        except wire.Malformed as error:
            self.kill(run, "output_kb" if isinstance(error, wire.TooLarge) else "protocol", str(error))
            self._close(run, run.channel.fileno())

    def _flush(self, run: Run) -> None:
        channel = run.channel
        if channel is None or channel.fileno() < 0:
            return
        try:
            while run.outgoing:
                del run.outgoing[: channel.send(run.outgoing[: 1 << 20])]
        except BlockingIOError:
            pass
        except OSError:
            run.outgoing.clear()
        if run.heard:
            self._poll.register(channel.fileno(), select.POLLIN | (select.POLLOUT if run.outgoing else 0))

    def _tell_end(self, number: int) -> None:
        try:
            self._control.send(marshal.dumps((number, None)))
        except OSError as error:
            raise JailBroken(f"the zygote takes no message: {error}") from None

    def _close(self, run: Run, descriptor: int) -> None:
        del self._handlers[descriptor]
        if run.heard:
            self._poll.unregister(descriptor)
        run.descriptors.discard(descriptor)
        if run.channel is not None and run.channel.fileno() == descriptor:
            run.channel.close()
        else:
            os.close(descriptor)


def _temporary_folder() -> str:
    import tempfile  # the zygote is a copy of this process and stays smaller without it

    return tempfile.mkdtemp(prefix="zeroth-unsafe-")


def _stdin(data: bytes) -> int:
    """A sealed file in memory: it can be read and sought, and nobody can write to it or make it grow."""
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, memoryview(data)[written:], written)
    fcntl.fcntl(
        descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    )
    return descriptor
