"""What every HTTP service here shares: its application, when it refuses, where it says it listens, and how it drains.

FastAPI reads the annotations of its endpoints, which are made inside a function here so that `zeroth --help` does not
import it; therefore this file has no postponed annotations.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from jobs import console

if TYPE_CHECKING:
    from fastapi import FastAPI

RETRY_AFTER_S = 1
KEEP_ALIVE_S = 120  # an idle connection is not closed under a client that is about to use it


class ServiceError(RuntimeError):
    """A service that cannot start."""

    exit_status = 2


class Draining(Protocol):
    """What takes a service's requests; it takes nothing new once ``draining`` is set."""

    draining: bool


class Desk(Draining, Protocol):
    """What takes at most ``queue`` pieces of work at once."""

    in_flight: int
    queue: int


class BodyLimit:
    """ASGI middleware: a body of more than ``limit`` bytes is answered with 413 and read no further."""

    def __init__(self, app: Any, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limit:
                await self._refuse(send)
                return
        given = False

        async def replay() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, replay, send)

    async def _refuse(self, send: Callable[[Any], Awaitable[None]]) -> None:
        text = f'{{"detail": "a body may have {self.limit} bytes"}}'.encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": text})


def new_app(title: str, lifespan: Any, registry: Any, max_body_mb: float) -> "FastAPI":
    """An application with a bound on bodies, and ``registry`` at /metrics, for Prometheus."""
    from fastapi import FastAPI, Response
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    app = FastAPI(title=title, version="1", lifespan=lifespan)
    app.add_middleware(BodyLimit, limit=int(max_body_mb * 1024 * 1024))
    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get("/metrics", response_class=Response, responses=text)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def refused(desk: Desk, count: int, what: str) -> dict[str, Any] | None:
    """The status, detail and headers with which a request for so much more work is refused, or None where there is
    room. A lone request larger than the queue is never taken."""
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    if desk.draining:
        return {"status_code": 503, "detail": "draining", "headers": headers}
    if desk.in_flight + count > desk.queue:
        detail = f"{desk.in_flight} {what} in flight of {desk.queue}"
        return {"status_code": 429, "detail": detail, "headers": headers}
    return None


def serve(app: Any, desk: Draining, what: str, host: str, port: int, drain_seconds: int) -> None:
    """Serves until a signal comes; ``what`` says what is served. Raises ServiceError where it could not start."""
    import uvicorn

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=drain_seconds,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    asyncio.run(serve_until_signal(uvicorn.Server(config), desk, what))


async def serve_until_signal(server: Any, desk: Draining, what: str, hint: str = " (docs at /docs)") -> None:
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

    async def serving() -> None:
        with contextlib.suppress(SystemExit):  # uvicorn's where it cannot listen, which it has said why
            await server.serve()

    running = asyncio.create_task(serving())
    while not server.started and not running.done():
        await asyncio.sleep(0.02)
    for listener in (listening for each in server.servers for listening in each.sockets) if server.started else ():
        host, port = listener.getsockname()[:2]
        console.say(f"{what} at http://{host}:{port}{hint}")
    await running
    if not server.started:
        raise ServiceError("the service did not start; the reason is above. --port names another port")
