"""A pool of workers for asyncio: bounded, cancellable, and gone when it is closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from sandbox import client, languages, wire
from sandbox.client import DEFAULT_MODULES, Tests, WorkerProcess, processors
from sandbox.verdict import Limits, Verdict


class Pool:
    """``async with Pool(workers) as pool: verdict = await pool.run(solution, tests)``.

    At most ``workers`` submissions are judged at a time; the callers of the others wait in the order they came, which
    is the back-pressure. A cancelled call ends its program at once. ``modules`` are imported beforehand in every
    worker; each costs memory that every fork of it copies page tables for.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        unsafe: bool = False,
        modules: Sequence[str] = DEFAULT_MODULES,
    ) -> None:
        self.workers = workers or processors()
        self._limits = limits
        self._unsafe = unsafe
        self._modules = tuple(modules)
        self._idle: asyncio.LifoQueue[WorkerProcess | None] = asyncio.LifoQueue()
        for _ in range(self.workers):
            self._idle.put_nowait(None)
        self._started: set[WorkerProcess] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        """Starts one worker, so that a machine that cannot isolate is known before the first run."""
        worker = await self._idle.get()
        self._idle.put_nowait(worker or await self._start())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def run(
        self, solution: str, tests: Tests = None, *, language: str = "python", limits: Limits | None = None
    ) -> Verdict:
        """The verdict on one submission. Raises InvalidTests, SandboxUnavailable, and RuntimeError once closed."""
        message = client.request(solution, tests, language, limits or self._limits)
        if self._closed:
            raise RuntimeError("the pool is closed")
        worker = await self._idle.get()
        try:
            if self._closed:
                raise RuntimeError("the pool was closed")
            if worker is None:
                worker = await self._start()
            answer = await _ask(worker, message)
        except asyncio.CancelledError:
            if worker is not None:
                self._discard(worker)
                worker = None
            raise
        except (OSError, EOFError) as error:
            if worker is not None:
                self._discard(worker)
                worker = None
            return Verdict("sandbox_error", detail=f"the worker ended: {error}")
        finally:
            self._idle.put_nowait(worker)
        return client.verdict(answer["verdict"])

    async def close(self) -> None:
        """Ends all workers and what they run. Runs in progress answer with ``sandbox_error``."""
        if self._closed:
            return
        self._closed = True
        workers = list(self._started)
        await asyncio.gather(*(asyncio.to_thread(worker.end) for worker in workers))
        for _ in range(self.workers):  # every run in progress has seen its worker's end when all places are back
            await self._idle.get()
        for worker in workers:
            worker.socket.close()

    async def _start(self) -> WorkerProcess:
        await asyncio.to_thread(languages.all_directories)  # asks toolchains where they are, once a process
        worker = WorkerProcess(unsafe=self._unsafe, modules=self._modules)
        self._started.add(worker)
        try:
            await asyncio.to_thread(worker.ready)
        except BaseException:
            self._started.discard(worker)
            worker.close()
            raise
        worker.socket.setblocking(False)
        return worker

    def _discard(self, worker: WorkerProcess) -> None:
        """Ends a worker's program now, and sees to the rest beside the event loop."""
        worker.hang_up()
        if not self._closed:
            self._started.discard(worker)
            threading.Thread(target=worker.close, daemon=True).start()


async def _ask(worker: WorkerProcess, message: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(worker.socket, wire.pack(message))
    reader = wire.FrameReader()
    while True:
        data = await loop.sock_recv(worker.socket, 1 << 18)
        if not data:
            raise EOFError("its socket closed")
        for answer in reader.feed(data):
            return dict(answer)
