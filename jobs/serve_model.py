"""`zeroth serve model`: a checkpoint behind OpenAI's completions and chat completions.

    POST /v1/completions, /v1/chat/completions   whole or streamed; n, stop, seed, logprobs, echo
    GET  /v1/models
    GET  /health       200 while it takes work, 503 while it drains
    GET  /metrics      Prometheus
    GET  /docs, /openapi.json

Completions of all requests are sampled together. Those in flight are bounded: past the bound a request is refused with
429 and Retry-After before anything is done for it. On SIGTERM the service finishes what it has taken and ends.

FastAPI reads the annotations of its endpoints, which are made inside a function here so that `zeroth --help` does not
import it; therefore this file has no postponed annotations.
"""

import asyncio
import contextlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from jobs.config import precision_of
from jobs.lifecycle import ServiceError, new_app, refused, serve
from jobs.options import DrainSeconds, Host, MaxBodyMb, Port

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI, Request

    from jobs.serving.answers import Shape
    from jobs.serving.desk import Ask, ModelDesk

T = TypeVar("T")
LOOK_S = 0.5
"""How often it is looked whether a client still waits for a whole answer."""


class Meters:
    """The Prometheus metrics of one service."""

    def __init__(self, desk: "ModelDesk") -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"registry": self.registry}
        self.tokens = Counter("zeroth_model_tokens", "Tokens read and sampled.", ["kind"], **common)
        self.refused = Counter("zeroth_model_refused", "Requests refused for want of room.", **common)
        self.took = Histogram("zeroth_model_request_seconds", "Seconds a request took.", ["way"], **common)
        in_flight = Gauge("zeroth_model_in_flight", "Completions in flight.", **common)
        in_flight.set_function(lambda: desk.in_flight)


def create_app(desk: "ModelDesk", keys: Sequence[str] = (), max_body_mb: float = 8.0) -> Any:
    """The ASGI application over this desk; with ``keys``, requests under /v1 must carry one of them."""
    from fastapi import APIRouter, Depends

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        desk.draining = True
        desk.batcher.close()

    meters = Meters(desk)
    app = new_app("Zeroth model", lifespan, meters.registry, max_body_mb)
    router = APIRouter(prefix="/v1", dependencies=[Depends(_key_check(keys))])
    _add_completions(router, desk, meters)
    _add_models(router, desk)
    app.include_router(router)
    _add_health(app, desk)
    _add_errors(app)
    return app


def _key_check(keys: Sequence[str]) -> Any:
    from fastapi import HTTPException, Request

    known = [key.encode() for key in keys]

    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if known and not any(hmac.compare_digest(given, key) for key in known):
            raise HTTPException(401, "this service wants an API key: Authorization: Bearer KEY")

    return check


def _add_completions(router: "APIRouter", desk: "ModelDesk", meters: Meters) -> None:
    from fastapi import Request

    from jobs.serving.answers import ChatShape, CompletionShape
    from jobs.serving.schemas import ChatRequest, CompletionRequest

    @router.post("/completions")
    async def completions(body: CompletionRequest, request: Request) -> Any:
        """Continues prompts, given as texts or token ids."""
        _check_model(desk, body.model)
        shape = CompletionShape(f"cmpl-{uuid.uuid4().hex}", desk.name, desk.tokenizer)
        return await _answer(desk, meters, request, body, desk.ask_completion(body), shape, "completions")

    @router.post("/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Any:
        """Answers a conversation, laid out by the checkpoint's template."""
        _check_model(desk, body.model)
        shape = ChatShape(f"chatcmpl-{uuid.uuid4().hex}", desk.name, desk.tokenizer)
        return await _answer(desk, meters, request, body, desk.ask_chat(body), shape, "chat")


def _check_model(desk: "ModelDesk", name: str) -> None:
    from fastapi import HTTPException

    if name != desk.name:
        raise HTTPException(404, f"the model {name!r} is not served here; {desk.name!r} is")


async def _answer(
    desk: "ModelDesk", meters: Meters, request: "Request", body: Any, ask: "Ask", shape: "Shape", way: str
) -> Any:
    """A whole answer, or a stream of it; or a refusal where there is no room or no more work is taken."""
    from fastapi import HTTPException
    from fastapi.responses import StreamingResponse

    from jobs.serving.answers import joined

    if refusal := refused(desk, len(ask.rows), "completions"):
        meters.refused.inc()
        raise HTTPException(**refusal)
    started = time.perf_counter()
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(_events(desk, meters, ask, shape, usage, way), media_type="text/event-stream")

    async def choice(index: int) -> Any:
        return joined([piece async for piece in desk.pieces(ask, index, stream=False)])

    with desk.taken(ask):
        choices = await _unless_gone(request, asyncio.gather(*(choice(i) for i in range(len(ask.rows)))))
    meters.took.labels(way).observe(time.perf_counter() - started)
    return shape.whole(choices, _usage(meters, ask))


async def _events(
    desk: "ModelDesk", meters: Meters, ask: "Ask", shape: "Shape", with_usage: bool, way: str
) -> AsyncIterator[str]:
    """Server-sent events: a chunk for each piece, and [DONE]."""
    from jobs.serving.answers import error
    from jobs.serving.desk import merged

    started = time.perf_counter()
    with desk.taken(ask):
        try:
            async for piece in merged([desk.pieces(ask, i, stream=True) for i in range(len(ask.rows))]):
                yield _event(shape.chunk(piece))
        except Exception as failure:  # noqa: BLE001  the answer has begun: the client is told in the stream
            yield _event(error(f"{type(failure).__name__}: {failure}", "server_error"))
            return
    usage = _usage(meters, ask)
    if with_usage:
        yield _event(shape.last_chunk(usage))
    yield "data: [DONE]\n\n"
    meters.took.labels(way).observe(time.perf_counter() - started)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _usage(meters: Meters, ask: "Ask") -> Any:
    from jobs.serving.answers import Usage

    prompt = sum(len(prompt) for prompt in {id(row.prompt): row.prompt for row in ask.rows}.values())
    usage = Usage(prompt, sum(len(row.begun.token_ids) for row in ask.rows if row.begun))
    meters.tokens.labels("prompt").inc(usage.prompt)
    meters.tokens.labels("completion").inc(usage.completion)
    return usage


async def _unless_gone(request: "Request", work: Awaitable[T]) -> T:
    """The work's result; where the client has gone before, the work is cancelled."""
    from fastapi import HTTPException

    task = asyncio.ensure_future(work)
    while not (await asyncio.wait({task}, timeout=LOOK_S))[0]:
        if await request.is_disconnected():
            task.cancel()
            raise HTTPException(499, "the client has gone")
    return task.result()


def _add_models(router: "APIRouter", desk: "ModelDesk") -> None:
    started = int(time.time())

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """The one model."""
        model = {"id": desk.name, "object": "model", "created": started, "owned_by": "zeroth"}
        return {"object": "list", "data": [{**model, "max_model_len": desk.context}]}


def _add_health(app: "FastAPI", desk: "ModelDesk") -> None:
    from fastapi import Response

    @app.get("/health")
    async def health(response: Response) -> dict[str, Any]:
        """Whether the service takes work."""
        response.status_code = 503 if desk.draining else 200
        status = "draining" if desk.draining else "ok"
        return {"status": status, "model": desk.name, "in_flight": desk.in_flight, "queue": desk.queue}


def _add_errors(app: "FastAPI") -> None:
    """Errors in OpenAI's shape, which its clients turn into exceptions."""
    from fastapi import HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    from jobs.serving.answers import error
    from jobs.serving.desk import Refused
    from jobs.serving.schemas import message_of

    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

    @app.exception_handler(HTTPException)
    async def http(_: Request, failure: HTTPException) -> JSONResponse:
        status = failure.status_code
        kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return JSONResponse(error(str(failure.detail), kind), status, failure.headers)

    @app.exception_handler(Refused)
    async def request_refused(_: Request, failure: Refused) -> JSONResponse:
        return JSONResponse(error(str(failure), "invalid_request_error", failure.param), 400)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, failure: RequestValidationError) -> JSONResponse:
        message, param = message_of(list(failure.errors()))
        return JSONResponse(error(message, "invalid_request_error", param), 400)


def model(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    name: Annotated[str | None, typer.Option(help="The model's name; by default the folder's.")] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    engine: Annotated[str, typer.Option(help="native, or vllm: vLLM's own server in place of this one.")] = "native",
    precision: Annotated[str | None, typer.Option(help="fp32 (native's), bf16 (vllm's) or fp8.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Holds {prompt}; by default that of the checkpoint's run, or its chat template.")
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="A file of API keys, one a line.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Completions sampled together.")] = 64,
    chunk_tokens: Annotated[int, typer.Option(min=1, help="Tokens sampled before new requests may join.")] = 32,
    queue: Annotated[int, typer.Option(min=1, help="Completions in flight before requests are refused.")] = 1024,
    max_body_mb: MaxBodyMb = 8.0,
    drain_seconds: DrainSeconds = 30,
) -> None:
    """Serve a checkpoint over HTTP, as OpenAI's API."""
    from jobs import loaded
    from jobs.serving.desk import ModelDesk

    keys, known = _keys(api_key_file), name or checkpoint.resolve().name
    if engine == "vllm":
        from jobs.serving import vllm_server

        options = ["--served-model-name", known, "--host", host, "--port", str(port), "--max-num-seqs", str(rows)]
        vllm_server.serve(checkpoint, precision_of(precision or "bf16"), template, keys, options, drain_seconds)
        return
    if engine != "native":
        raise ServiceError(f"--engine {engine!r}: it is native or vllm")
    sampler = loaded.loaded_engine(checkpoint, precision or "fp32", rows)
    desk = ModelDesk(known, sampler, loaded.layout_of(checkpoint, sampler.tokenizer, template), queue, chunk_tokens)
    serve(create_app(desk, keys, max_body_mb), desk, f"model {desk.name}", host, port, drain_seconds)


def _keys(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        keys = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise ServiceError(f"--api-key-file: {error}") from None
    if not keys:
        raise ServiceError(f"--api-key-file: {path} holds no key")
    return keys
