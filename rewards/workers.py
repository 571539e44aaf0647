"""Worker processes that can be killed: the one place where text from a model meets a parser.

    submit -> queue -> one thread for each worker -> socket -> worker process -> socket -> the future's result
                         |  no reply in time: SIGKILL, "timeout"
                         |  connection lost: "error" with how the worker ended
                         '- the next job gets a fresh fork from the nursery; other workers notice nothing

A job's clock starts when its worker has it, so waiting for a free worker never makes a verdict a time-out. The pool
may be used from any thread, from several event loops and from Ray actors; after a fork of its own process it starts
afresh. Killing is the only remedy that works: a signal handler does not interrupt one long operation on big integers.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

from rewards.nursery import HEADER, receive_frame, send_frame

_ROOT = str(Path(__file__).resolve().parents[1])
_BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from rewards.nursery import main; main()"


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What one job may use; a job that is given another wall time is given CPU time in proportion.

    ``jobs`` is after how many jobs a worker is replaced, which keeps its memory flat; ``start_s`` bounds the start of
    the process that workers are forked from.
    """

    wall_s: float = 2.0
    cpu_s: float = 2.0
    memory_mb: int = 512
    jobs: int = 5000
    start_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: its result, or None with the reason in ``detail``."""

    status: Literal["ok", "error", "timeout"]
    result: Any = None
    detail: str = ""
    seconds: float = 0.0


class Workers:
    """A pool of ``count`` worker processes for one task, given as ``"module:function"``.

    Nothing starts before the first job. Arguments and results are JSON values. Where the task's module has a function
    ``warm_up``, it is called with ``initial`` once, before workers are forked.
    """

    def __init__(
        self, task: str, count: int = 2, limits: WorkerLimits | None = None, initial: tuple[Any, ...] = ()
    ) -> None:
        self.task = task
        self.initial = initial
        self.count = max(1, count)
        self.limits = limits or WorkerLimits()
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[Future[Outcome], tuple[Any, ...], float] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._nursery: _Nursery | None = None
        self._closed = False
        _POOLS.add(self)

    def submit(self, *arguments: Any, wall_s: float | None = None) -> Future[Outcome]:
        """Queues one job; the future never raises."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the workers are closed")
            self._start()
            future: Future[Outcome] = Future()
            self._queue.put((future, arguments, wall_s or self.limits.wall_s))
        return future

    def run(self, *arguments: Any, wall_s: float | None = None) -> Outcome:
        """One job, waited for; may be called from any thread."""
        return self.submit(*arguments, wall_s=wall_s).result()

    async def ask(self, *arguments: Any, wall_s: float | None = None) -> Outcome:
        """One job, awaited; may be called from any event loop."""
        return await asyncio.wrap_future(self.submit(*arguments, wall_s=wall_s))

    def close(self) -> None:
        """Ends the workers; jobs that have not started come back as errors."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            threads, self._threads = self._threads, []
            for _ in threads:
                self._queue.put(None)
        for thread in threads:
            thread.join(self.limits.wall_s + 1.0)
        if self._nursery is not None:
            self._nursery.close()

    def restart_after_fork(self) -> None:
        """A forked copy of this process has none of its threads: begin afresh, on a lock of its own."""
        self._lock = threading.Lock()
        self._queue = queue.SimpleQueue()
        self._threads = []
        self._nursery = None

    def _start(self) -> None:
        if self._nursery is None:
            self._nursery = _Nursery(self.task, self.limits, self.initial)
        if len(self._threads) < self.count:
            thread = threading.Thread(
                target=self._serve, args=(self._nursery,), name=f"worker of {self.task}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self, nursery: _Nursery) -> None:
        worker: _Worker | None = None
        while (job := self._queue.get()) is not None:
            future, arguments, wall_s = job
            if not future.set_running_or_notify_cancel():
                continue
            if self._closed:
                future.set_result(Outcome("error", detail="the workers are closed"))
                continue
            try:
                worker = worker or nursery.fork()
            except (OSError, EOFError) as error:
                future.set_result(Outcome("error", detail=f"no worker process could be started: {error}"))
                continue
            outcome = worker.ask(arguments, wall_s, self.limits.cpu_s * wall_s / self.limits.wall_s)
            future.set_result(outcome)
            if worker.spent or worker.jobs >= self.limits.jobs:
                nursery.bury(worker)
                worker = None
        if worker is not None:
            nursery.bury(worker)


class _Worker:
    """The parent's end of one worker process."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection = connection
        self.pid = pid
        self.jobs = 0
        self.spent = False

    def ask(self, arguments: tuple[Any, ...], wall_s: float, cpu_s: float) -> Outcome:
        started = time.monotonic()
        self.jobs += 1
        try:
            self.connection.settimeout(wall_s)
            send_frame(self.connection, [cpu_s, list(arguments)])
            self.connection.settimeout(max(0.001, wall_s - (time.monotonic() - started)))
            answer = receive_frame(self.connection)
        except TimeoutError:
            self.kill()
            return Outcome("timeout", detail=f"no verdict within {wall_s:g} s", seconds=time.monotonic() - started)
        except (OSError, EOFError):
            self.kill()
            return Outcome(
                "error", detail="the worker ended: out of memory or CPU time", seconds=time.monotonic() - started
            )
        seconds = time.monotonic() - started
        if "error" in answer:
            self.spent = bool(answer.get("spent"))
            return Outcome("error", detail=str(answer["error"]), seconds=seconds)
        return Outcome("ok", answer["result"], seconds=seconds)

    def kill(self) -> None:
        """The nursery reaps a worker only when told to, so its pid is still its own here."""
        self.spent = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class _Nursery:
    """The parent's end of the process that workers are forked from; started at the first fork, and again if it dies."""

    def __init__(self, task: str, limits: WorkerLimits, initial: tuple[Any, ...]) -> None:
        self.task = task
        self.initial = json.dumps(initial)
        self.limits = limits
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def fork(self) -> _Worker:
        with self._lock:
            for attempt in (1, 2):
                try:
                    return self._fork()
                except (OSError, EOFError):
                    self._end()
                    if attempt == 2:
                        raise
        raise AssertionError("unreachable")

    def bury(self, worker: _Worker) -> None:
        """Ends and reaps a worker."""
        worker.kill()
        worker.connection.close()
        with self._lock, contextlib.suppress(OSError):
            if self._control is not None:
                self._control.sendall(struct.pack("!II", worker.pid, 0))

    def close(self) -> None:
        with self._lock:
            self._end()

    def _fork(self) -> _Worker:
        control = self._control or self._boot()
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(control, [struct.pack("!II", 0, self.limits.memory_mb)], [theirs.fileno()])
        control.settimeout(self.limits.start_s)
        reply = control.recv(HEADER.size)
        if len(reply) < HEADER.size:
            ours.close()
            raise EOFError("the process that workers are forked from ended")
        return _Worker(ours, HEADER.unpack(reply)[0])

    def _boot(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            command = [sys.executable, "-c", _BOOT, _ROOT, str(descriptor), self.task, self.initial]
            self._process = subprocess.Popen(command, pass_fds=[descriptor], stdin=subprocess.DEVNULL)
        self._control = ours
        return ours

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(2.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


_POOLS: WeakSet[Workers] = WeakSet()


def _after_fork() -> None:
    for pool in list(_POOLS):
        pool.restart_after_fork()


def _close_all() -> None:
    for pool in list(_POOLS):
        pool.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_close_all)
