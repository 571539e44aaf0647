"""The HTTP service. Large forms: ZEROTH_LOAD_SECONDS=60 ZEROTH_LOAD_CLIENTS=200, ZEROTH_FUZZ_EXAMPLES=500."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.rewards.service import service

LOAD_SECONDS = float(os.environ.get("ZEROTH_LOAD_SECONDS", "4"))
FUZZ_EXAMPLES = os.environ.get("ZEROTH_FUZZ_EXAMPLES", "20")
LOAD_CLIENTS = int(os.environ.get("ZEROTH_LOAD_CLIENTS", "50"))


@pytest.fixture(scope="module")
def math():
    with service(
        "--reward", "math", "--reward", "format", "--max-body-mb", "1", "--queue", "2000", "--workers", "2"
    ) as running:
        yield running


def post(running, path, body, **settings):
    return httpx.post(running.url + path, json=body, timeout=60, **settings)


def sample(gold, answer, **fields):
    return {"answer": gold, "response": f"\\boxed{{{answer}}}", **fields}


def test_scores_come_in_order_with_their_ids(math):
    samples = [sample(str(number), str(number + number % 2), id=f"s{number}") for number in range(20)]
    answer = post(math, "/score", {"reward": "math", "samples": samples}).json()
    assert [score["id"] for score in answer["scores"]] == [f"s{number}" for number in range(20)]
    assert [score["value"] for score in answer["scores"]] == [float(number % 2 == 0) for number in range(20)]


def test_openrlhf_protocol_gives_a_reward_for_each_query(math):
    body = {"query": ["Q: \\boxed{1/2}", "Q: \\boxed{3}"], "prompts": ["Q: ", "Q: "], "labels": ["0.5", "4"]}
    assert post(math, "/get_reward", body).json() == {"rewards": [1.0, 0.0]}


def test_what_cannot_be_judged_is_never_a_zero_for_openrlhf():
    with service("--reward", "tests.rewards.plugins:Undecided") as undecided:
        answer = post(undecided, "/get_reward", {"query": ["x"], "prompts": [""], "labels": ["1"]})
        assert answer.status_code == 502
        assert "could not be judged" in answer.json()["detail"]
        scored = post(undecided, "/score", {"samples": [{"response": "x"}]}).json()["scores"][0]
        assert (scored["value"], scored["status"]) == (None, "error")


def test_a_reward_that_is_not_served_is_refused(math):
    answer = post(math, "/score", {"reward": "code", "samples": []})
    assert answer.status_code == 422
    assert "math" in answer.text


def test_a_client_cannot_name_an_object_to_import(math):
    assert post(math, "/score", {"reward": "os:system", "samples": []}).status_code == 422


@pytest.mark.parametrize(
    "body",
    [{}, {"samples": 1}, {"samples": [{}]}, {"samples": [{"response": 7}]}, {"samples": [], "extra": 1}, [], "x"],
)
def test_a_malformed_body_is_422(math, body):
    assert post(math, "/score", body).status_code == 422


def test_a_problem_without_its_answer_is_an_error_of_that_sample_only(math):
    answer = post(math, "/score", {"reward": "math", "samples": [{"response": "x"}, sample("1", "1")]}).json()
    assert [score["status"] for score in answer["scores"]] == ["error", "ok"]
    assert "answer" in answer["scores"][0]["detail"]


def test_a_body_over_the_limit_is_413(math):
    answer = post(math, "/score", {"reward": "math", "samples": [sample("1", "1" * 2_000_000)]})
    assert answer.status_code == 413


def test_health_openapi_and_metrics(math):
    assert httpx.get(math.url + "/health").json()["status"] == "ok"
    assert "/score" in httpx.get(math.url + "/openapi.json").json()["paths"]
    post(math, "/score", {"reward": "math", "samples": [sample("1", "1")]})
    metrics = httpx.get(math.url + "/metrics").text
    assert 'zeroth_reward_samples_total{reward="math",status="ok"}' in metrics


def test_past_the_queue_a_request_is_refused_at_once_and_later_taken():
    with service("--reward", "tests.rewards.plugins:Slow", "--queue", "4") as slow:
        body = {"samples": [{"response": "1.5"}] * 4}
        first: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: first.append(post(slow, "/score", body)))
        thread.start()
        while httpx.get(slow.url + "/health").json()["in_flight"] == 0:
            time.sleep(0.02)
        refused = post(slow, "/score", {"samples": [{"response": "0"}]})
        thread.join()
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert first[0].status_code == 200
        assert post(slow, "/score", {"samples": [{"response": "0"}]}).status_code == 200


def test_a_shutdown_finishes_what_it_has_taken():
    with service("--reward", "tests.rewards.plugins:Slow") as slow:
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(post(slow, "/score", {"samples": [{"response": "2"}]})))
        thread.start()
        while httpx.get(slow.url + "/health").json()["in_flight"] == 0:
            time.sleep(0.02)
        assert slow.terminate() == 0
        thread.join()
        assert answers[0].status_code == 200


def test_an_unknown_reward_ends_the_service_with_status_2():
    command = [sys.executable, "-m", "jobs", "serve", "rewards", "--reward", "mth"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "did you mean" in ended.stderr


def test_many_clients_lose_and_mix_up_nothing(math):
    """Each client sends numbers of its own and checks that the scores are for them."""
    wrong: list[object] = []

    async def client(number, http, until):
        done = 0
        while time.monotonic() < until:
            gold = number * 1_000_000 + done
            hit = done % 3 != 0
            body = {"reward": "math", "samples": [sample(f"{gold}x", f"x\\cdot {gold + (not hit)}", id=gold)]}
            answer = await http.post(math.url + "/score", json=body)
            if answer.status_code == 429:
                await asyncio.sleep(0.05)
                continue
            score = answer.json()["scores"][0]
            if answer.status_code != 200 or score["id"] != gold or score["value"] != float(hit):
                wrong.append((number, answer.status_code, answer.text))
            done += 1
        return done

    async def load():
        limits = httpx.Limits(max_connections=LOAD_CLIENTS, max_keepalive_connections=LOAD_CLIENTS)
        async with httpx.AsyncClient(limits=limits, timeout=120) as http:
            until = time.monotonic() + LOAD_SECONDS
            return await asyncio.gather(*(client(number, http, until) for number in range(1, LOAD_CLIENTS + 1)))

    done = asyncio.run(load())
    print(f"{LOAD_CLIENTS} clients, {LOAD_SECONDS:g} s: {sum(done)} answers")
    assert wrong == []
    assert min(done) >= 1


def test_schemathesis_finds_no_fault_from_the_openapi_page():
    """With a value for what cannot be judged, every request that the page allows is answered."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("schemathesis is not installed")
    with service("--reward", "math", "--unjudged", "-1") as running:
        ended = subprocess.run(
            [program, "run", running.url + "/openapi.json", "--max-examples", FUZZ_EXAMPLES, "--checks", "all"],
            capture_output=True,
            text=True,
            check=False,
        )
    print(ended.stdout[-1500:])
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
