"""`zeroth serve rewards`: the rewards over HTTP, for trainers of any make.

    POST /score        {"reward": "math", "samples": [{"id", "answer", ..., "response"}]} -> {"scores": [...]}
    POST /get_reward   OpenRLHF's remote reward model: {"query", "prompts", "labels"} -> {"rewards": [...]}
    GET  /health       200 while it takes work, 503 while it drains
    GET  /metrics      Prometheus
    GET  /docs, /openapi.json

A client names only rewards that the service was started with. Samples in flight are bounded: past the bound a request
is refused with 429 and Retry-After before anything is done for it. On SIGTERM the service stops accepting, finishes
what it has taken and closes its workers.

FastAPI reads the annotations of its endpoints, which are made inside a function here so that `zeroth --help` does not
import it; therefore this file has no postponed annotations.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.lifecycle import ServiceError, new_app, refused, serve
from jobs.options import DrainSeconds, Host, MaxBodyMb, Port

if TYPE_CHECKING:
    from fastapi import FastAPI


class Desk:
    """The rewards of a service, and how many samples may be in flight at once."""

    def __init__(self, rewards: Mapping[str, Any], queue: int) -> None:
        self.rewards = dict(rewards)
        self.queue = queue
        self.in_flight = 0
        self.draining = False

    async def score(self, name: str, samples: Sequence[Any]) -> list[Any]:
        """The samples' scores, an error for a problem that lacks what the reward needs; the caller asked for room."""
        from rewards import Score

        self.in_flight += len(samples)
        try:
            faults = [_fault(self.rewards[name], sample.problem) for sample in samples]
            fit = [sample for sample, fault in zip(samples, faults, strict=True) if not fault]
            given = iter(await self.rewards[name](fit))
            return [Score(None, "error", detail=fault) if fault else next(given) for fault in faults]
        finally:
            self.in_flight -= len(samples)

    async def close(self) -> None:
        self.draining = True
        await asyncio.gather(*(reward.close() for reward in self.rewards.values()), return_exceptions=True)


def _fault(reward: Any, problem: Mapping[str, Any]) -> str:
    from rewards import BadProblem, check_problem

    try:
        check_problem(reward, problem)
    except BadProblem as error:
        return str(error)
    return ""


def create_app(desk: Desk, max_body_mb: float = 8.0, unjudged: float | None = None) -> Any:
    """The ASGI application over these rewards.

    ``unjudged`` is what OpenRLHF's protocol, which has no word for "could not tell", is given for a sample without a
    value; without it such a request fails with 502, because an error must not become a reward.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        await desk.close()

    meters = Meters(desk)
    app = new_app("Zeroth rewards", lifespan, meters.registry, max_body_mb)
    _add_score(app, desk, meters)
    _add_get_reward(app, desk, meters, unjudged)
    _add_health(app, desk)
    return app


class Meters:
    """The Prometheus metrics of one service."""

    def __init__(self, desk: Desk) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"registry": self.registry}
        self.scored = Counter("zeroth_reward_samples", "Samples scored.", ["reward", "status"], **common)
        self.refused = Counter("zeroth_reward_refused", "Requests refused for want of room.", **common)
        self.took = Histogram("zeroth_reward_request_seconds", "Seconds a request took.", ["reward"], **common)
        in_flight = Gauge("zeroth_reward_in_flight", "Samples in flight.", **common)
        in_flight.set_function(lambda: desk.in_flight)


async def _judge(desk: Desk, meters: Meters, name: str, samples: list[Any]) -> list[Any]:
    """The scores, or a refusal where there is no room or no more work is taken."""
    from fastapi import HTTPException

    if refusal := refused(desk, len(samples), "samples"):
        meters.refused.inc()
        raise HTTPException(**refusal)
    started = time.perf_counter()
    scores = await desk.score(name, samples)
    meters.took.labels(name).observe(time.perf_counter() - started)
    for given in scores:
        meters.scored.labels(name, given.status).inc()
    return scores


def _refusals() -> dict[int | str, dict[str, Any]]:
    from pydantic import BaseModel

    class Refusal(BaseModel):
        detail: Any

    texts = {400: "the body is no JSON", 413: "the body is too large", 429: "no room now", 503: "draining"}
    return {status: {"model": Refusal, "description": text} for status, text in texts.items()}


def _add_score(app: "FastAPI", desk: Desk, meters: Meters) -> None:
    from typing import Literal

    from pydantic import BaseModel, ConfigDict, Field

    from rewards import Sample

    names = tuple(desk.rewards)

    class SampleIn(BaseModel):
        """A problem's fields with one response to it."""

        model_config = ConfigDict(extra="allow", strict=True)
        response: str
        id: str | int | None = None

    class ScoreRequest(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        samples: list[SampleIn] = Field(max_length=desk.queue)
        reward: Literal[names] = Field(names[0], description="One of the service's rewards.")  # type: ignore[valid-type]

    class ScoreOut(BaseModel):
        id: str | int | None
        value: float | None
        status: str
        parts: dict[str, float]
        detail: str

    class ScoreResponse(BaseModel):
        scores: list[ScoreOut]

    @app.post("/score", responses=_refusals())
    async def score(request: ScoreRequest) -> ScoreResponse:
        """Scores samples with one reward, in order."""
        samples = []
        for item in request.samples:
            problem = item.model_dump(exclude_unset=True)
            response = problem.pop("response")
            samples.append(Sample(problem, response))
        given = await _judge(desk, meters, request.reward, samples)
        answers = [
            ScoreOut(id=item.id, value=one.value, status=one.status, parts=dict(one.parts), detail=one.detail)
            for item, one in zip(request.samples, given, strict=True)
        ]
        return ScoreResponse(scores=answers)


def _add_get_reward(app: "FastAPI", desk: Desk, meters: Meters, unjudged: float | None) -> None:
    from fastapi import HTTPException
    from pydantic import BaseModel, ConfigDict, Field

    from rewards import Sample

    class QueryRequest(BaseModel):
        model_config = ConfigDict(strict=True)
        query: list[str] = Field(max_length=desk.queue)
        prompts: list[str] | None = None
        labels: list[Any] | None = None

    class QueryResponse(BaseModel):
        rewards: list[float]

    refusals = _refusals()
    refusals[502] = {**refusals[503], "description": "a sample could not be judged"}

    @app.post("/get_reward", responses=refusals)
    async def get_reward(request: QueryRequest) -> QueryResponse:
        """OpenRLHF's remote reward protocol, for the service's first reward: a query is a prompt and its response,
        a label the gold answer."""
        name = next(iter(desk.rewards))
        samples = []
        for index, query in enumerate(request.query):
            prompt, label = _at(request.prompts, index, ""), _at(request.labels, index, None)
            problem = {"id": index, "prompt": prompt, "answer": label}
            samples.append(Sample(problem, query.removeprefix(prompt)))
        values = []
        for index, one in enumerate(await _judge(desk, meters, name, samples)):
            value = one.value if one.value is not None else unjudged
            if value is None:
                raise HTTPException(502, f"query {index} could not be judged ({one.status}): {one.detail}")
            values.append(value)
        return QueryResponse(rewards=values)


def _add_health(app: "FastAPI", desk: Desk) -> None:
    from fastapi import Response
    from pydantic import BaseModel

    class Health(BaseModel):
        status: str
        rewards: list[str]
        in_flight: int
        queue: int

    @app.get("/health", responses={503: {"model": Health, "description": "draining"}})
    async def health(response: Response) -> Health:
        """Whether the service takes work."""
        response.status_code = 503 if desk.draining else 200
        status = "draining" if desk.draining else "ok"
        return Health(status=status, rewards=list(desk.rewards), in_flight=desk.in_flight, queue=desk.queue)


def _at(values: Sequence[Any] | None, index: int, missing: Any) -> Any:
    return values[index] if values is not None and index < len(values) else missing


def rewards(
    reward: Annotated[list[str], typer.Option(help="A reward to serve; may be given several times.")] = ["math"],  # noqa: B006
    host: Host = "127.0.0.1",
    port: Port = 5000,
    workers: Annotated[int, typer.Option(help="Samples checked at once by each reward; 0: one for each core.")] = 0,
    queue: Annotated[int, typer.Option(help="Samples in flight before requests are refused.")] = 4096,
    max_body_mb: MaxBodyMb = 8.0,
    drain_seconds: DrainSeconds = 30,
    unjudged: Annotated[
        float | None, typer.Option(help="OpenRLHF only: the reward of what could not be judged.")
    ] = None,
    settings: Annotated[
        str, typer.Option(help='Settings by reward, as JSON: {"learned": {"model": "FOLDER"}}.')
    ] = "{}",
) -> None:
    """Serve rewards over HTTP."""
    from jobs.score import find_with_workers, settings_of

    chosen = settings_of(settings)
    if not (chosen.keys() <= set(reward) and all(isinstance(each, dict) for each in chosen.values())):
        raise ServiceError(
            f"--settings is an object of objects, under names of the rewards served: {', '.join(reward)}"
        )
    count = workers or os.cpu_count() or 1
    desk = Desk({name: find_with_workers(name, count, chosen.get(name, {})) for name in reward}, queue)
    app = create_app(desk, max_body_mb, unjudged)
    serve(app, desk, f"rewards {', '.join(desk.rewards)}", host, port, drain_seconds)
