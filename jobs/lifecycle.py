"""How an HTTP service lives: it says where it listens, and drains when a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any, Protocol

from jobs import console


class ServiceError(RuntimeError):
    """A service that cannot start."""

    exit_status = 2


class Desk(Protocol):
    """What takes a service's requests; it takes nothing new once ``draining`` is set."""

    draining: bool


async def serve_until_signal(server: Any, desk: Desk, what: str, hint: str = " (docs at /docs)") -> None:
    """Runs a uvicorn server; on SIGTERM or SIGINT its desk takes nothing new, and it finishes what it has and returns,
    so that the process ends with status 0. ``what`` says what is served, ``hint`` where to look next. Raises
    ServiceError where it could not start."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        desk.draining = True
        server.should_exit = True

    server.capture_signals = contextlib.nullcontext  # a drained service ends with status 0, not by the signal
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    running = asyncio.create_task(server.serve())
    while not server.started and not running.done():
        await asyncio.sleep(0.02)
    for listener in (listening for each in server.servers for listening in each.sockets) if server.started else ():
        host, port = listener.getsockname()[:2]
        console.say(f"{what} at http://{host}:{port}{hint}")
    await running
    if not server.started:
        raise ServiceError("the service did not start; the reason is above")
