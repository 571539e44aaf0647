"""Endpoints and response files."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.evaluation.sources import Answer, EndpointError, EndpointSource, Wanted, read_key, read_responses, references
from model.engine import Sampling
from rl.problems import ProblemError, from_fields

PROBLEMS = [
    from_fields({"id": str(i), "prompt": f"{i}+1", "reward": "math", "answer": str(i + 1)}, "p") for i in range(6)
]
WANTED = [Wanted("s", problem, copy) for problem in PROBLEMS for copy in range(2)]


class Server:
    """A fake endpoint; ``reply`` may refuse. Counts what is open at once."""

    def __init__(self, reply: Callable[[int, dict[str, Any]], httpx.Response | None] = lambda n, body: None) -> None:
        self.reply, self.bodies, self.paths, self.open, self.most = reply, list[Any](), list[str](), 0, 0
        self.headers: list[Any] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0.001)
        self.open -= 1
        body = json.loads(request.content)
        self.bodies.append(body)
        self.paths.append(request.url.path)
        self.headers.append(request.headers)
        refused = self.reply(len(self.bodies), body)
        if refused is not None:
            return refused
        text = f"seed {body['seed']}"
        choice = {"message": {"content": text}, "text": text, "finish_reason": "stop"}
        return httpx.Response(200, json={"choices": [choice], "usage": {"completion_tokens": 3}})


def source(server: Server, **changes: Any) -> EndpointSource:
    settings: dict[str, Any] = {"concurrency": 3, "first_wait_s": 0.001, "transport": httpx.MockTransport(server)}
    return EndpointSource("http://x/v1", "m", Sampling(0.6, 0.95, 9, ("END",)), 0, **{**settings, **changes})


def collect(source: EndpointSource) -> dict[str, Answer]:
    async def run() -> dict[str, Answer]:
        return {wanted.id: answer async for batch in source.answers(WANTED) for wanted, answer in batch}

    return asyncio.run(run())


def test_an_endpoint_answers_each_once_with_bounded_concurrency() -> None:
    server = Server()
    answers = collect(source(server, api_key="secret"))
    assert set(answers) == {wanted.id for wanted in WANTED}
    assert len({answer.text for answer in answers.values()}) == len(server.bodies) == 12
    assert server.most == 3
    assert {header["authorization"] for header in server.headers} == {"Bearer secret"}
    body = server.bodies[0]
    assert server.paths[0] == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "0+1"}]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["stop"]) == (0.6, 0.95, 9, ["END"])


def test_with_a_template_it_asks_for_plain_completions() -> None:
    server = Server()
    collect(source(server, template="Q: {prompt} A:"))
    assert (server.paths[0], server.bodies[0]["prompt"]) == ("/v1/completions", "Q: 0+1 A:")


def test_a_full_server_is_asked_again() -> None:
    refusals = {2: httpx.Response(429, headers={"retry-after": "0.01"}), 3: httpx.Response(503), 5: httpx.Response(500)}
    server = Server(lambda n, body: refusals.get(n))
    assert len(collect(source(server))) == 12
    assert len(server.bodies) == 15


def test_a_refusal_is_not_repeated_and_says_why() -> None:
    server = Server(lambda n, body: httpx.Response(401, text="no such key"))
    with pytest.raises(EndpointError, match="no such key") as error:
        collect(source(server, concurrency=1))
    assert (error.value.exit_status, len(server.bodies)) == (2, 1)


def test_a_base_url_without_its_path_is_told_of_it() -> None:
    server = Server(lambda n, body: httpx.Response(404, text="Not Found"))
    with pytest.raises(EndpointError, match="ends in /v1"):
        collect(EndpointSource("http://x", "m", Sampling(), 0, transport=httpx.MockTransport(server)))


def test_a_server_that_stays_down_ends_the_run_and_what_came_before_is_handed_on() -> None:
    server = Server(lambda n, body: httpx.Response(503) if n > 4 else None)
    got: list[str] = []

    async def run() -> None:
        async for batch in source(server, concurrency=1, retries=2).answers(WANTED):
            got.extend(wanted.id for wanted, _ in batch)

    with pytest.raises(EndpointError) as error:
        asyncio.run(run())
    assert (error.value.exit_status, len(got), len(server.bodies)) == (1, 4, 7)


def test_an_endpoint_that_was_never_there_is_not_waited_for() -> None:
    with socket.socket() as taken:  # bound and not listening: a connection is refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        waits_for_an_hour = EndpointSource(url, "m", Sampling(), 0, first_wait_s=3600.0)
        with pytest.raises(EndpointError, match=f"{url}: nothing answers there"):
            collect(waits_for_an_hour)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://x:port/v1"])
def test_an_endpoint_that_is_no_url_is_a_bad_call(url: str) -> None:
    with pytest.raises(EndpointError, match="http://HOST:PORT/v1") as error:
        collect(EndpointSource(url, "m", Sampling(), 0))
    assert error.value.exit_status == 2


def test_an_endpoint_that_goes_away_is_waited_for_and_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    def reply(number: int, body: dict[str, Any]) -> httpx.Response | None:
        if number in (4, 5):
            raise httpx.ConnectError("refused")
        return None

    assert len(collect(source(Server(reply), concurrency=1))) == 12
    assert (
        " ".join(capsys.readouterr().err.split())
        == "http://x/v1: ConnectError: refused; asking again in 0 s, 6 tries left"
    )


def test_an_answer_of_another_shape_is_named() -> None:
    server = Server(lambda n, body: httpx.Response(200, text="<html>"))
    with pytest.raises(EndpointError, match="<html>"):
        collect(source(server))


def test_responses_may_be_named_as_others_name_them(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = [
        {"id": 0, "response": "a"},
        {"task_id": "1", "completion": "b"},
        {"problem": "1", "id": "1/-1/0", "text": "c"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_responses(path, PROBLEMS[:2]) == {"0": ["a"], "1": ["b", "c"]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "0", "response": "a"}, "5 of 6 problems have no response.*'1'"),
        ({"id": "77", "response": "a"}, "'77'"),
        ({"id": "0"}, "no text"),
    ],
)
def test_responses_that_do_not_fit_are_refused(tmp_path: Path, line: dict[str, str], message: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(ProblemError, match=message):
        read_responses(path, PROBLEMS)


def test_problems_without_a_reference_are_named() -> None:
    with pytest.raises(ProblemError, match="'0' has no reference"):
        references(PROBLEMS)


def test_a_response_to_a_problem_of_two_suites_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"id": "0", "response": "a"}) + "\n")
    with pytest.raises(ProblemError, match="one suite at a time"):
        read_responses(path, [PROBLEMS[0], PROBLEMS[0]])


def test_the_key_comes_from_a_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "from the environment")
    (tmp_path / "key").write_text("from the file\n")
    assert read_key("SOME_KEY", None) == "from the environment"
    assert read_key("SOME_KEY", tmp_path / "key") == "from the file"
    assert read_key("NO_SUCH_KEY", None) is None
    with pytest.raises(ProblemError, match="--api-key-file"):
        read_key("SOME_KEY", tmp_path / "absent")
