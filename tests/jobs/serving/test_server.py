"""The service through OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")

from jobs import serve_model  # noqa: E402
from jobs.serving.desk import ModelDesk  # noqa: E402
from model import publish  # noqa: E402
from model.chat import Layout  # noqa: E402
from model.engine import Request, Sampling  # noqa: E402
from model.native import NativeEngine  # noqa: E402
from rl.rollout import sample_seed  # noqa: E402
from tests.fakes import tiny_policy  # noqa: E402
from tests.jobs.conftest import Workspace  # noqa: E402
from tests.rewards.service import service  # noqa: E402

KEY = "secret"


class Slow(NativeEngine):
    """Waits before each call where a test says so."""

    delay = 0.0

    async def generate(self, requests: Any, sampling: Sampling) -> Any:
        await asyncio.sleep(self.delay)
        return await super().generate(requests, sampling)


class Running:
    def __init__(self, queue: int = 16) -> None:
        policy = tiny_policy()
        self.engine = Slow(policy.model.c, policy.tokenizer)
        asyncio.run(self.engine.publish(publish.publish(policy.model, 0, "fp32")))
        self.desk = ModelDesk("tiny", self.engine, Layout(policy.tokenizer), queue, tokens=4)
        app = serve_model.create_app(self.desk, [KEY], max_body_mb=0.1)
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    yield
    Slow.delay = 0.0


def direct(running: Running, prompt: str, most: int, seed: int, copies: int = 1) -> list[str]:
    request = Request(
        tuple(running.engine.tokenizer.encode(prompt)), tuple(sample_seed(seed, f"0/{i}") for i in range(copies))
    )
    return [completion.text for completion in running.engine.sample([request], Sampling(max_tokens=most))[0]]


def test_a_completion_is_what_the_engine_samples_with_this_seed(running: Running) -> None:
    made = running.client.completions.create(model="tiny", prompt="1+2=", max_tokens=9, seed=3, n=3)
    assert [choice.text for choice in made.choices] == direct(running, "1+2=", 9, 3, 3)
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert made.usage.prompt_tokens == 4
    assert {choice.finish_reason for choice in made.choices} <= {"stop", "length"}


def test_a_stream_adds_up_to_the_whole(running: Running) -> None:
    ask = {"model": "tiny", "prompt": "1+2=", "max_tokens": 30, "seed": 3, "n": 2}
    whole = running.client.completions.create(**ask)
    texts, reasons, usage = {0: "", 1: ""}, {}, None
    pieces = 0
    for chunk in running.client.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces += 1
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert [texts[0], texts[1]] == [choice.text for choice in whole.choices]
    assert [reasons[0], reasons[1]] == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert pieces > 2


def test_chat_goes_through_the_template(running: Running) -> None:
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+2?"}]
    made = running.client.chat.completions.create(model="tiny", messages=messages, max_tokens=8, seed=1)
    laid_out = "System: Be brief.\nUser: 1+2?\nAssistant: "
    assert made.choices[0].message.content == direct(running, laid_out, 8, 1)[0]
    stream = running.client.chat.completions.create(model="tiny", messages=messages, max_tokens=8, seed=1, stream=True)
    assert "".join(chunk.choices[0].delta.content for chunk in stream) == made.choices[0].message.content


def test_log_probabilities_are_the_models_own(running: Running) -> None:
    from model.likelihood import likelihoods

    made = running.client.completions.create(
        model="tiny", prompt="1+2=", max_tokens=6, seed=3, temperature=0.5, logprobs=2, echo=True
    )
    found = made.choices[0].logprobs
    assert found.token_logprobs[0] is None
    request = Request(tuple(running.engine.tokenizer.encode("1+2=")), (sample_seed(3, "0/0"),))
    (alone,) = running.engine.sample([request], Sampling(0.5, max_tokens=6))[0]
    ids = [i for i in alone.token_ids if i != running.engine.tokenizer.eos]
    (wanted,) = likelihoods(running.engine.model, [[*request.prompt_ids, *ids]], 2)
    assert found.token_logprobs[1:] == pytest.approx(list(wanted.logprobs), abs=1e-5)
    assert sorted(found.top_logprobs[-1].values(), reverse=True) == pytest.approx([p for _, p in wanted.top[-1]])


def test_chat_log_probabilities_stream_and_whole_are_the_same(running: Running) -> None:
    ask: dict[str, Any] = {
        "model": "tiny", "messages": [{"role": "user", "content": "1"}], "max_tokens": 10, "seed": 2,
        "logprobs": True, "top_logprobs": 1,
    }  # fmt: skip
    whole = running.client.chat.completions.create(**ask).choices[0].logprobs.content
    chunks = list(running.client.chat.completions.create(**ask, stream=True))
    streamed = [token for chunk in chunks for token in chunk.choices[0].logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in whole]
    assert [t.logprob for t in streamed] == pytest.approx([t.logprob for t in whole], abs=1e-5)
    assert all(token.logprob <= token.top_logprobs[0].logprob + 1e-6 for token in whole)


def test_a_prompt_alone_is_scored(running: Running) -> None:
    made = running.client.completions.create(model="tiny", prompt="1+2=3", max_tokens=0, echo=True, logprobs=1)
    assert made.choices[0].text == "1+2=3"
    assert len(made.choices[0].logprobs.tokens) == 5
    assert made.usage.completion_tokens == 0


def test_a_stop_string_ends_an_answer_and_is_not_in_it(running: Running) -> None:
    seed, text = next(
        (seed, text) for seed in range(99) for text in direct(running, "1+2=", 40, seed) if len(text) > 12
    )
    stop = text[4:6]
    made = running.client.completions.create(model="tiny", prompt="1+2=", max_tokens=40, seed=seed, stop=stop)
    assert made.choices[0].text == text[: text.index(stop)]
    assert made.choices[0].finish_reason == "stop"
    chunks = running.client.completions.create(
        model="tiny", prompt="1+2=", max_tokens=40, seed=seed, stop=stop, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == made.choices[0].text


def test_several_prompts_as_texts_and_as_tokens(running: Running) -> None:
    ids = running.engine.tokenizer.encode("1+2=")
    texts = running.client.completions.create(model="tiny", prompt=["1+2=", "3"], max_tokens=5, seed=0)
    tokens = running.client.completions.create(model="tiny", prompt=[ids, [ids[0]]], max_tokens=5, seed=0)
    assert len(texts.choices) == 2
    assert texts.choices[0].text == tokens.choices[0].text


def test_many_clients_at_once_get_their_own_answers(running: Running) -> None:
    async def run() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=5)
        made = await asyncio.gather(
            *(client.completions.create(model="tiny", prompt="1+2=", max_tokens=6 + i, seed=i) for i in range(12))
        )
        return [one.choices[0].text for one in made]

    assert asyncio.run(run()) == [direct(running, "1+2=", 6 + i, i)[0] for i in range(12)]


@pytest.mark.parametrize(
    ("changes", "error", "word"),
    [
        ({"model": "other"}, openai.NotFoundError, "'tiny'"),
        ({"max_tokens": 1000}, openai.BadRequestError, "at most 96"),
        ({"prompt": [999999]}, openai.BadRequestError, "token id"),
        ({"prompt": ""}, openai.BadRequestError, "at least one"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"frequency_penalty": 1.0}, openai.BadRequestError, "frequency_penalty"),
        ({"suffix": "x"}, openai.BadRequestError, "suffix: is not served"),
        ({"stop": [""]}, openai.BadRequestError, "stop"),
        ({"prompt": "1" * 200_000}, openai.APIStatusError, "413"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    running: Running, changes: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error) as refused:
        running.client.completions.create(**{"model": "tiny", "prompt": "1", **changes})
    assert word in str(refused.value)


def test_a_request_without_the_key_is_refused(running: Running) -> None:
    with pytest.raises(openai.AuthenticationError):
        running.client.with_options(api_key="wrong").models.list()
    assert [model.id for model in running.client.models.list()] == ["tiny"]


def test_health_and_metrics(running: Running) -> None:
    assert httpx.get(running.url + "/health").json() == {"status": "ok", "model": "tiny", "in_flight": 0, "queue": 16}
    running.client.completions.create(model="tiny", prompt="1+2=", max_tokens=2)
    assert 'zeroth_model_tokens_total{kind="completion"}' in httpx.get(running.url + "/metrics").text


def test_past_the_queue_a_request_is_refused_and_later_taken(running: Running) -> None:
    Slow.delay = 0.3
    ask = {"model": "tiny", "prompt": "1", "max_tokens": 8}
    thread = threading.Thread(target=lambda: running.client.completions.create(**ask, n=12))
    thread.start()
    while running.desk.in_flight == 0:
        time.sleep(0.01)
    with pytest.raises(openai.RateLimitError) as refused:
        running.client.completions.create(**ask, n=5)
    assert int(refused.value.response.headers["retry-after"]) >= 1
    thread.join()
    Slow.delay = 0.0
    assert running.client.completions.create(**ask, n=5).choices


def test_a_reader_that_goes_away_frees_its_place(running: Running) -> None:
    Slow.delay = 0.2
    stream = running.client.completions.create(model="tiny", prompt="1+2=", max_tokens=80, stream=True)
    next(iter(stream))
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        running.client.with_options(timeout=0.3).completions.create(model="tiny", prompt="1", max_tokens=80)
    until = time.monotonic() + 20
    while running.desk.in_flight and time.monotonic() < until:
        time.sleep(0.05)
    assert running.desk.in_flight == 0


def test_a_shutdown_finishes_what_it_has_taken() -> None:
    own = Running()
    Slow.delay = 0.2
    made: list[Any] = []
    thread = threading.Thread(
        target=lambda: made.append(own.client.completions.create(model="tiny", prompt="1", max_tokens=8))
    )
    thread.start()
    while own.desk.in_flight == 0:
        time.sleep(0.01)
    own.desk.draining = True
    refused = httpx.post(
        own.url + "/v1/completions", json={"model": "tiny", "prompt": "1"}, headers={"authorization": f"Bearer {KEY}"}
    )
    assert (refused.status_code, json.loads(refused.text)["error"]["message"]) == (503, "draining")
    assert "retry-after" in refused.headers
    assert httpx.get(own.url + "/health").status_code == 503
    own.stop()
    thread.join(30)
    assert made[0].choices[0].text


def test_the_command_serves_a_checkpoint_and_ends_well(workspace: Workspace) -> None:
    (workspace.folder / "keys").write_text("one\ntwo\n")
    arguments = (str(workspace.base), "--name", "base", "--api-key-file", str(workspace.folder / "keys"))
    with service(*arguments, kind="model") as served:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="two", max_retries=0)
        messages: Any = [{"role": "user", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "+1"}]}]
        made = client.chat.completions.create(model="base", messages=messages, max_tokens=4)
        assert made.usage.completion_tokens <= 4
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="three").models.list()
        assert served.terminate() == 0
