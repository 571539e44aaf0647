"""The sandbox over HTTP, in SandboxFusion's shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox import Limits, Pool
from tests.sandbox.programs import asynchronous

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from fastapi.testclient import TestClient  # noqa: E402

from jobs import serve_sandbox  # noqa: E402

LIMITS = Limits(wall_seconds=10.0, cpu_seconds=10.0, output_kb=256)


def _desk(queue: int = 8) -> serve_sandbox.Desk:
    return serve_sandbox.Desk(Pool(2, limits=LIMITS), LIMITS, queue, 20.0)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(serve_sandbox.create_app(_desk(), max_body_mb=1.0)) as client:
        yield client


def _run(client: TestClient, **request: Any) -> dict[str, Any]:
    answer = client.post("/run_code", json={"language": "python", **request})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_run_code_that_succeeds(client: TestClient) -> None:
    body = _run(client, code="print(input()*2)", stdin="ab")
    assert body["status"] == "Success"
    assert body["compile_result"] is None
    assert body["run_result"]["status"] == "Finished"
    assert body["run_result"]["return_code"] == 0
    assert body["run_result"]["stdout"] == "abab\n"
    assert body["files"] == {}


def test_run_code_that_fails(client: TestClient) -> None:
    body = _run(client, code="import sys\nprint('x')\nsys.exit(3)")
    assert (body["status"], body["run_result"]["return_code"], body["run_result"]["stdout"]) == ("Failed", 3, "x\n")
    body = _run(client, code="1/0")
    assert "ZeroDivisionError" in body["run_result"]["stderr"]


def test_run_code_that_takes_too_long(client: TestClient) -> None:
    body = _run(client, code="print(1, flush=True)\nwhile True: pass", run_timeout=0.5)
    assert (body["status"], body["run_result"]["status"]) == ("Failed", "TimeLimitExceeded")
    assert body["run_result"]["return_code"] is None
    assert body["run_result"]["stdout"] == "1\n"


def test_run_code_is_isolated(client: TestClient) -> None:
    body = _run(client, code="import os; print(os.listdir('/root') if os.path.exists('/root/.ssh') else 'nothing')")
    assert body["run_result"]["stdout"] == "nothing\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"code": "1", "language": "cobol"}, 400),
        ({"code": "1", "language": "python", "files": {"a": "eA=="}}, 400),
        ({"code": "1"}, 422),
        ({"language": "python"}, 422),
        ({"code": "x" * 1_100_000, "language": "python"}, 413),
    ],
)
def test_requests_that_cannot_be_done(client: TestClient, request_: dict[str, Any], status: int) -> None:
    assert client.post("/run_code", json=request_).status_code == status


def _submit(client: TestClient, completion: str, data: Any) -> dict[str, Any]:
    request = {"dataset": "any", "id": 7, "completion": completion, "config": {"provided_data": data}}
    answer = client.post("/submit", json=request)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


PAIRS = [{"input": {"stdin": "2"}, "output": {"stdout": "4"}}, {"input": {"stdin": "3"}, "output": {"stdout": "9"}}]


def test_submit_with_input_and_output(client: TestClient) -> None:
    body = _submit(
        client, "First\n```python\nprint(0)\n```\nthen\n```python\nprint(int(input())**2)\n```", {"test": PAIRS}
    )
    assert body["accepted"] is True
    assert [case["passed"] for case in body["tests"]] == [True, True]
    assert (body["id"], body["extracted_type"]) == (7, "fenced")
    body = _submit(client, "print(4)", {"test": PAIRS})
    assert (body["accepted"], [case["passed"] for case in body["tests"]]) == (False, [True, False])
    assert body["tests"][1]["exec_info"]["message"].startswith("wrong_answer")


def test_submit_with_asserts(client: TestClient) -> None:
    check = {"test": "def check(candidate):\n    assert candidate(2)==4\n", "entry_point": "f"}
    assert _submit(client, "def f(x): return x*x", check)["accepted"] is True
    assert _submit(client, "def f(x): return 5", check)["accepted"] is False
    asserts = [{"id": 6}, {"id": 7, "test_list": ["assert f(2)==4", "assert f(3)==9"]}]
    assert _submit(client, "def f(x): return x*x", asserts)["accepted"] is True


def test_submit_without_tests_is_a_bad_request(client: TestClient) -> None:
    for data in (None, {}, {"test": []}, [{"id": 1}], {"test": [{"input": {"a.txt": "x"}, "output": {}}]}):
        answer = client.post("/submit", json={"id": 7, "completion": "x", "config": {"provided_data": data}})
        assert answer.status_code == 400


def test_health_and_metrics(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/v1/ping").json() == "pong"
    _run(client, code="print(1)")
    assert 'zeroth_sandbox_verdicts_total{language="python",status="passed"}' in client.get("/metrics").text


@asynchronous
async def test_full_queue_refuses_at_once() -> None:
    desk = _desk(queue=2)
    app = serve_sandbox.create_app(desk)
    async with desk.pool:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            slow = {"code": "import time; time.sleep(1)", "language": "python"}
            answers = await asyncio.gather(*(client.post("/run_code", json=slow, timeout=60) for _ in range(5)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200, 200, 429, 429, 429]
    assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 429} == {"1"}
