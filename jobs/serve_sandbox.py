"""`zeroth serve sandbox`: the sandbox over HTTP, in the shapes of SandboxFusion, so that a trainer that calls one can
call this one.

    POST /run_code   {"code", "language", "stdin"?, "compile_timeout"?, "run_timeout"?, "memory_limit_MB"?}
    POST /submit     {"dataset", "id", "completion", "config": {"language"?, "run_timeout"?, "provided_data": {"test"}}}
    GET  /health     200 while it takes work, 503 while it drains; /v1/ping answers "pong"
    GET  /metrics    Prometheus

Differences from SandboxFusion, each told to the client: isolation is always on; ``files`` and ``fetch_files`` are
refused when they are not empty; ``/submit`` takes its tests from the request and knows no data sets of its own. The
tests are "test" of the provided data, as a list of ``{"input": {"stdin"}, "output": {"stdout"}}`` or of this project's
own tests, or assert-style Python with its "entry_point"; or "test_list", MBPP's list of asserts.

Submissions in flight are bounded: past the bound a request is refused with 429 and Retry-After.

FastAPI reads the annotations of its endpoints, which are made inside a function here so that `zeroth --help` does not
import it; therefore this file has no postponed annotations.
"""

import contextlib
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.lifecycle import new_app, refused, serve
from jobs.options import DrainSeconds, Host, MaxBodyMb, Port

if TYPE_CHECKING:
    from fastapi import FastAPI

    from sandbox import Limits, Verdict

_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_TIMED_OUT = ("time_limit",)
_LANGUAGES = {"nodejs": "javascript", "python_gpu": "python", "pytest": "python"}


class BadRequest(ValueError):
    """A request that no program can fulfil; answered with 400."""


@dataclass
class Desk:
    """The pool of a service, its limits, and how many submissions may be in flight at once."""

    pool: Any
    limits: "Limits"
    queue: int
    most_seconds: float
    in_flight: int = 0
    draining: bool = False

    async def judge(self, code: str, tests: Any, language: str, limits: "Limits") -> "Verdict":
        self.in_flight += 1
        try:
            verdict: Verdict = await self.pool.run(
                code, tests, language=_LANGUAGES.get(language, language), limits=limits
            )
            return verdict
        finally:
            self.in_flight -= 1

    def limits_for(self, run_seconds: float | None, compile_seconds: float | None, memory_mb: float | None) -> "Limits":
        """The service's limits with those that the request lowers, or raises as far as the service lets it."""
        run = min(run_seconds or self.limits.wall_seconds, self.most_seconds)
        compiling = min(compile_seconds or self.limits.compile_seconds, self.most_seconds)
        memory = int(memory_mb) if memory_mb and memory_mb > 0 else self.limits.memory_mb
        return replace(
            self.limits,
            wall_seconds=max(0.01, run),
            cpu_seconds=max(0.01, run),
            compile_seconds=max(0.01, compiling),
            memory_mb=min(memory, self.limits.memory_mb),
        )


def command_result(verdict: "Verdict", stdout: str, stderr: str) -> dict[str, Any]:
    """A verdict as SandboxFusion's result of one command."""
    timed_out = verdict.status in _TIMED_OUT
    status = "TimeLimitExceeded" if timed_out else "Error" if verdict.status == "sandbox_error" else "Finished"
    code = None if timed_out else verdict.exit_status
    if code == 0 and verdict.status not in ("passed", "wrong_answer"):
        code = 1
    seconds = verdict.wall_seconds
    return {"status": status, "execution_time": seconds, "return_code": code, "stdout": stdout, "stderr": stderr}


def run_response(verdict: "Verdict", compiled: bool) -> dict[str, Any]:
    """A verdict as SandboxFusion's answer to ``/run_code``. ``message`` carries our status and its detail."""
    said = verdict.stderr if verdict.stderr or verdict.status == "passed" else verdict.detail
    result = command_result(verdict, verdict.stdout, said)
    failed_to_compile = verdict.status == "compile_error"
    status = {"passed": "Success", "sandbox_error": "SandboxError"}.get(verdict.status, "Failed")
    return {
        "status": status,
        "message": "" if status == "Success" else f"{verdict.status}: {verdict.detail}",
        "compile_result": result if compiled and failed_to_compile else None,
        "run_result": None if compiled and failed_to_compile else result,
        "executor_pod_name": None,
        "files": {},
    }


def extract_code(completion: str) -> tuple[str, str]:
    """The last fenced block, or all of the completion, and which of them it was."""
    blocks = _FENCED.findall(completion)
    if blocks:
        return blocks[-1], "fenced"
    return completion, "heuristic" if completion.strip() else "empty"


def provided_tests(data: Any, identifier: str | int) -> list[dict[str, Any]] | str:
    """The tests in a request's ``provided_data``. Raises BadRequest."""
    if isinstance(data, list):
        data = next((row for row in data if isinstance(row, dict) and str(row.get("id")) == str(identifier)), None)
    if not isinstance(data, dict):
        raise BadRequest("config.provided_data is an object with the problem's tests")
    if isinstance(data.get("test_list"), list):
        return "\n".join([str(data.get("test_setup_code", "")), *map(str, data["test_list"])])
    tests = data.get("test", data.get("tests"))
    if isinstance(tests, dict) and "code" in tests:
        tests = tests["code"]
    if isinstance(tests, str):
        called = f"\ncheck({data['entry_point']})\n" if "def check(" in tests and "entry_point" in data else ""
        return tests + called
    if not isinstance(tests, list) or not tests:
        raise BadRequest("config.provided_data has neither 'test' (a list or assert-style code) nor 'test_list'")
    return [_one_test(test) for test in tests]


def _one_test(test: Any) -> dict[str, Any]:
    if not isinstance(test, Mapping):
        raise BadRequest("a test is an object")
    if "input" not in test:
        return dict(test)
    given, expected = test["input"], test.get("output", {})
    if not isinstance(given, Mapping) or not isinstance(expected, Mapping) or set(given) - {"stdin"}:
        raise BadRequest("a test's input has 'stdin' and its output 'stdout', and no files")
    return {"stdin": given.get("stdin", ""), "stdout": expected.get("stdout", "")}


class Meters:
    """The Prometheus metrics of one service."""

    def __init__(self, desk: Desk) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"registry": self.registry}
        self.verdicts = Counter("zeroth_sandbox_verdicts", "Submissions judged.", ["language", "status"], **common)
        self.refused = Counter("zeroth_sandbox_refused", "Requests refused for want of room.", **common)
        self.took = Histogram("zeroth_sandbox_request_seconds", "Seconds a submission took.", **common)
        in_flight = Gauge("zeroth_sandbox_in_flight", "Submissions in flight.", **common)
        in_flight.set_function(lambda: desk.in_flight)


async def _judge(desk: Desk, meters: Meters, code: str, tests: Any, language: str, limits: "Limits") -> "Verdict":
    """The verdict, or a refusal where there is no room, no more work is taken, or the request is impossible."""
    from fastapi import HTTPException

    from sandbox import InvalidTests

    if refusal := refused(desk, 1, "submissions"):
        meters.refused.inc()
        raise HTTPException(**refusal)
    started = time.perf_counter()
    try:
        verdict = await desk.judge(code, tests, language, limits)
    except InvalidTests as error:
        raise HTTPException(400, str(error)) from None
    meters.took.observe(time.perf_counter() - started)
    meters.verdicts.labels(_known_language(language), verdict.status).inc()
    return verdict


def _known_language(name: str) -> str:
    from sandbox.languages import known

    return known(_LANGUAGES.get(name, name)).name


def create_app(desk: Desk, max_body_mb: float = 32.0) -> Any:
    """The ASGI application over this desk."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with desk.pool:
            yield
            desk.draining = True

    meters = Meters(desk)
    app = new_app("Zeroth sandbox", lifespan, meters.registry, max_body_mb)
    _add_run_code(app, desk, meters)
    _add_submit(app, desk, meters)
    _add_health(app, desk)
    return app


def _add_run_code(app: "FastAPI", desk: Desk, meters: Meters) -> None:
    from fastapi import HTTPException
    from pydantic import BaseModel

    from sandbox.languages import known

    class RunCodeRequest(BaseModel):
        code: str
        language: str
        stdin: str | None = None
        compile_timeout: float | None = None
        run_timeout: float | None = None
        memory_limit_MB: float | None = None
        files: dict[str, str | None] = {}
        fetch_files: list[str] = []

    @app.post("/run_code")
    async def run_code(request: RunCodeRequest) -> dict[str, Any]:
        """Runs one program."""
        if request.files or request.fetch_files:
            raise HTTPException(400, "files and fetch_files are not supported")
        limits = desk.limits_for(request.run_timeout, request.compile_timeout, request.memory_limit_MB)
        limits = replace(limits, report_kb=limits.output_kb)
        tests = [{"stdin": request.stdin}] if request.stdin else None
        verdict = await _judge(desk, meters, request.code, tests, request.language, limits)
        language = known(_LANGUAGES.get(request.language, request.language))
        return run_response(verdict, bool(language.compile))


def _add_submit(app: "FastAPI", desk: Desk, meters: Meters) -> None:
    from fastapi import HTTPException
    from pydantic import BaseModel

    from sandbox import Verdict

    class SubmitConfig(BaseModel):
        language: str | None = None
        compile_timeout: float | None = None
        run_timeout: float | None = None
        provided_data: list[dict[str, Any]] | dict[str, Any] | None = None
        extra: dict[str, Any] = {}

    class SubmitRequest(BaseModel):
        dataset: str = ""
        id: str | int = 0
        completion: str
        config: SubmitConfig

    @app.post("/submit")
    async def submit(request: SubmitRequest) -> dict[str, Any]:
        """Judges a completion against the tests that come with it."""
        code, kind = extract_code(request.completion)
        config = request.config
        try:
            tests = provided_tests(config.provided_data, request.id)
        except BadRequest as error:
            raise HTTPException(400, str(error)) from None
        limits = desk.limits_for(config.run_timeout, config.compile_timeout, None)
        verdict = await _judge(desk, meters, code, tests, config.language or "python", limits)
        single = [Verdict(one.status, wall_seconds=one.wall_seconds, detail=one.detail) for one in verdict.tests]
        infos = tests if isinstance(tests, list) else [None]
        cases = [
            {"passed": shown.status == "passed", "exec_info": run_response(shown, False), "test_info": info}
            for shown, info in zip(single or [verdict], infos, strict=False)
        ]
        return {
            "id": request.id,
            "accepted": verdict.status == "passed",
            "extracted_code": code,
            "full_code": None,
            "test_code": tests if isinstance(tests, str) else None,
            "tests": cases,
            "extracted_type": kind,
            "extra": {"status": verdict.status, "passed": verdict.passed, "total": verdict.total},
        }


def _add_health(app: "FastAPI", desk: Desk) -> None:
    from fastapi import Response

    @app.get("/health")
    async def health(response: Response) -> dict[str, Any]:
        """Whether the service takes work."""
        response.status_code = 503 if desk.draining else 200
        status = "draining" if desk.draining else "ok"
        return {"status": status, "in_flight": desk.in_flight, "queue": desk.queue, "workers": desk.pool.workers}

    @app.get("/v1/ping")
    async def ping() -> str:
        return "pong"


def sandbox(
    host: Host = "127.0.0.1",
    port: Port = 8080,
    workers: Annotated[int, typer.Option(help="Programs run at once; 0: one for each processor.")] = 0,
    queue: Annotated[int, typer.Option(help="Submissions in flight before requests are refused.")] = 1024,
    run_seconds: Annotated[float, typer.Option(help="Real and CPU time of a run, where a request names none.")] = 10.0,
    most_seconds: Annotated[float, typer.Option(help="The most that a request may ask for.")] = 60.0,
    memory_mb: Annotated[int, typer.Option(help="Memory of a run; a request may ask for less.")] = 1024,
    output_kb: Annotated[int, typer.Option(help="Output of a run.")] = 4096,
    max_body_mb: MaxBodyMb = 32.0,
    drain_seconds: DrainSeconds = 30,
) -> None:
    """Serve the sandbox over HTTP, in SandboxFusion's shapes."""
    from sandbox import Limits, Pool

    limits = Limits(wall_seconds=run_seconds, cpu_seconds=run_seconds, memory_mb=memory_mb, output_kb=output_kb)
    desk = Desk(Pool(workers or None, limits=limits), limits, queue, most_seconds)
    serve(create_app(desk, max_body_mb), desk, f"sandbox of {desk.pool.workers} workers", host, port, drain_seconds)
