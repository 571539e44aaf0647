"""vLLM as an engine, on a CPU: the same promises as the native engine's, the same proof of a publish."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model import checkpoint, publish, receiver
from model import vllm_engine as vllm_engine_module
from model.engine import Completion, EngineError, Request, Sampling
from model.parts import SCALE
from model.publish import Arriving, Published, PublishError
from model.segments import Segments
from model.transformer import Transformer, build
from model.transport import Shared
from model.vllm_engine import VllmEngine, check_sampling, moe_routes
from tests.fakes import LOADABLE, TINY, tiny_policy, tiny_tokenizer
from tests.model.test_publish import damaged, one_bit

pytestmark = pytest.mark.vllm

TOKENIZER = tiny_tokenizer()
CONFIG = replace(TINY, bos_token_id=TOKENIZER.bos, eos_token_id=TOKENIZER.eos, **LOADABLE)  # type: ignore[arg-type]
PROMPTS = [(5, 6, 7), (40, 41, 42, 43, 44, 45, 46), (9,)]
EXPERTS = "layers.1.mlp.experts.down_proj.weight"


def run(engine: VllmEngine, requests: list[Request], sampling: Sampling) -> list[list[Completion]]:
    return asyncio.run(engine.generate(requests, sampling))


def given(engine: VllmEngine, seed: int = 3, version: int = 7) -> Transformer:
    """Publishes a model to the engine."""
    model = build(CONFIG, seed)
    asyncio.run(engine.publish(publish.publish(model, version, "fp32")))
    return model


def full_logprobs(model: Transformer, prompt: tuple[int, ...], ids: tuple[int, ...], temperature: float) -> list[float]:
    tokens = torch.tensor((*prompt, *ids))
    with torch.no_grad():
        hidden = model(tokens[:-1], Segments.of([len(tokens) - 1])).hidden
        logp = (model.logits(hidden) / temperature).log_softmax(-1)
    found: list[float] = logp[len(prompt) - 1 :].gather(-1, tokens[len(prompt) :, None]).squeeze(-1).tolist()
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_tokens_have_the_trainer_s_log_probabilities(vllm_engine: VllmEngine, temperature: float) -> None:
    model = given(vllm_engine)
    requests = [Request(prompt, tuple(range(100 * i, 100 * i + 4))) for i, prompt in enumerate(PROMPTS)]
    for prompt, group in zip(PROMPTS, run(vllm_engine, requests, Sampling(temperature, max_tokens=30)), strict=True):
        assert len({completion.token_ids for completion in group}) == 4
        for completion in group:
            assert completion.logprobs == pytest.approx(
                full_logprobs(model, prompt, completion.token_ids, temperature), abs=1e-4
            )
            assert completion.versions == (7,) * len(completion.token_ids)
            stopped = completion.token_ids[-1] == TOKENIZER.eos
            assert completion.finish_reason == ("stop" if stopped else "length")
            assert stopped or len(completion.token_ids) == 30
            assert completion.text == TOKENIZER.decode(completion.token_ids)


def test_greedy_takes_the_likeliest_token(vllm_engine: VllmEngine) -> None:
    model = given(vllm_engine)
    ((completion,),) = run(vllm_engine, [Request(PROMPTS[1], (1,))], Sampling(temperature=0.0, max_tokens=12))
    tokens = torch.tensor((*PROMPTS[1], *completion.token_ids))
    with torch.no_grad():
        logits = model.logits(model(tokens[:-1], Segments.of([len(tokens) - 1])).hidden)
    assert tuple(logits.argmax(-1)[len(PROMPTS[1]) - 1 :].tolist()) == completion.token_ids


def test_a_seed_gives_the_same_sample_again(vllm_engine: VllmEngine) -> None:
    given(vllm_engine)
    once, again = (run(vllm_engine, [Request(PROMPTS[0], (5, 6))], Sampling(max_tokens=20)) for _ in range(2))
    assert [c.token_ids for c in once[0]] == [c.token_ids for c in again[0]]


def test_a_stop_string_ends_a_completion_behind_its_token(vllm_engine: VllmEngine) -> None:
    given(vllm_engine)
    requests = [Request(PROMPTS[0], tuple(range(16)))]
    (plain,) = run(vllm_engine, requests, Sampling(max_tokens=30))
    stop = next(letter for letter in "abcdefghijklmnopqrstuvwxyz" if any(letter in c.text for c in plain))
    (ended,) = run(vllm_engine, requests, Sampling(max_tokens=30, stop=(stop,)))
    for before, after in zip(plain, ended, strict=True):
        assert after.token_ids == before.token_ids[: len(after.token_ids)]
        assert (stop in after.text) == (stop in before.text)
        if stop in after.text:
            assert stop not in TOKENIZER.decode(after.token_ids[:-1])
            assert after.finish_reason == "stop"


def test_a_paused_completion_goes_on_behind_its_tokens(vllm_engine: VllmEngine) -> None:
    model = given(vllm_engine, version=7)
    sampling = Sampling(max_tokens=20, pause_after=8)
    ((begun,),) = run(vllm_engine, [Request(PROMPTS[0], (3,))], sampling)
    assert (begun.finish_reason, len(begun.token_ids)) == ("paused", 8)
    given(vllm_engine, version=8)
    ((longer,),) = run(vllm_engine, [Request(PROMPTS[0], (3,), (begun,))], sampling)
    assert longer.token_ids[:8] == begun.token_ids
    assert set(longer.versions[8:]) == {8}
    assert longer.versions[:8] == (7,) * 8
    assert longer.logprobs == pytest.approx(full_logprobs(model, PROMPTS[0], longer.token_ids, 1.0), abs=1e-4)


@pytest.mark.parametrize("way", ["drained", "paused", "mixed"])
def test_a_publish_amid_sampling(vllm_engine: VllmEngine, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drained completions are of one version, the others of two, and each token says which."""
    monkeypatch.setattr(vllm_engine, "on_publish", way)
    given(vllm_engine, version=1)
    weights = publish.publish(build(CONFIG, seed=4), 2, "fp32")
    probe, sampled_meanwhile = vllm_engine._probe, []

    async def watched(prompt: tuple[int, ...]) -> list[float]:
        sampled_meanwhile.append(vllm_engine.version)
        return await probe(prompt)

    monkeypatch.setattr(vllm_engine, "_probe", watched)

    async def both() -> list[list[Completion]]:
        sampling = asyncio.create_task(
            vllm_engine.generate([Request(PROMPTS[0], tuple(range(64)))], Sampling(max_tokens=90))
        )
        await asyncio.sleep(0.15)
        await vllm_engine.publish(weights)
        return await sampling

    (group,) = asyncio.run(both())
    versions = {completion.versions for completion in group}
    assert all(list(v) == sorted(v) for v in versions)
    assert all(len(c.versions) == len(c.token_ids) == len(c.logprobs) for c in group)
    assert any(len(set(v)) == 2 for v in versions) == (way != "drained")
    assert sampled_meanwhile == [2]


def expert_order(tensor: Tensor) -> Tensor:
    return tensor.roll(1, 0)


@pytest.mark.parametrize(
    ("name", "change", "forge", "message"),
    [
        (EXPERTS, one_bit, False, re.escape(EXPERTS) + " differs"),
        ("norm.weight", one_bit, False, r"norm\.weight differs"),
        (EXPERTS, expert_order, True, r"log-probabilities.*in layers\.1, the first"),
    ],
)
def test_damage_is_caught_and_named(
    vllm_engine: VllmEngine, name: str, change: Callable[[Tensor], Tensor], forge: bool, message: str
) -> None:
    weights = publish.publish(build(CONFIG, seed=5), 9, "fp32")
    with pytest.raises(PublishError, match=message):
        asyncio.run(vllm_engine.publish(damaged(weights, name, change, forge=forge)))
    assert vllm_engine.version != 9
    assert not vllm_engine.open.is_set()
    given(vllm_engine)


def test_weights_that_lie_in_the_trainer_s_memory_are_opened_by_the_workers(vllm_engine: VllmEngine) -> None:
    model, shared = build(CONFIG, seed=8), Shared()
    weights = publish.publish(model, 5, "fp32", shared.place)
    one_bit(shared.kept[0][2].part.tensors[EXPERTS])
    with pytest.raises(PublishError, match=re.escape(EXPERTS) + " differs"):
        asyncio.run(vllm_engine.publish(weights))
    asyncio.run(vllm_engine.publish(publish.publish(model, 6, "fp32", shared.place)))
    ((completion,),) = run(vllm_engine, [Request(PROMPTS[0], (1,))], Sampling(max_tokens=20))
    assert completion.versions == (6,) * len(completion.token_ids)
    assert completion.logprobs == pytest.approx(full_logprobs(model, PROMPTS[0], completion.token_ids, 1.0), abs=1e-4)


def test_vllm_s_unpacked_experts_are_found_and_packed(vllm_engine: VllmEngine) -> None:
    """vLLM 0.32 reloads the experts of its CPU kernel without packing them: the probe sees it, the
    receiver mends it."""
    weights = publish.publish(build(CONFIG, seed=6), 3, "fp32")
    asyncio.run(vllm_engine.call("set_packing", False))
    try:
        with pytest.raises(PublishError, match=r"log-probabilities.*in layers\.1, the first"):
            asyncio.run(vllm_engine.publish(weights))
    finally:
        asyncio.run(vllm_engine.call("set_packing", True))
    asyncio.run(vllm_engine.publish(weights))
    assert vllm_engine.version == 3


def test_one_changed_scale_is_caught_by_the_receiver(tmp_path: Path) -> None:
    weights: Published = publish.publish(build(CONFIG, seed=0), 1, "fp8")
    for number, part in enumerate(damaged(weights, EXPERTS + SCALE, one_bit).parts):
        receiver.write(part, tmp_path / f"{number}.part")
    (tmp_path / "end").touch()
    with pytest.raises(PublishError, match=re.escape(EXPERTS + SCALE)):
        list(Arriving(replace(weights, parts=receiver.parts_in(tmp_path, 0))))


def test_weights_of_another_precision_are_refused(vllm_engine: VllmEngine) -> None:
    with pytest.raises(PublishError, match="fp8"):
        asyncio.run(vllm_engine.publish(publish.publish(build(CONFIG, seed=0), 1, "fp8")))


@pytest.mark.parametrize(
    ("temperature", "top_p", "before", "fits"),
    [(0.7, 1.0, False, True), (0.7, 0.9, False, False), (1.0, 0.9, True, True), (0.7, 1.0, True, False)],
)
def test_what_vllm_cannot_give_is_refused(temperature: float, top_p: float, before: bool, fits: bool) -> None:
    sampling = Sampling(temperature, top_p)
    if fits:
        check_sampling(sampling, before)
        return
    with pytest.raises(EngineError, match="rollout.engine to native"):
        check_sampling(sampling, before)
    check_sampling(replace(sampling, temperature=0.0), before)


async def listen(said: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        said.append("task ended")


class Sleeper:
    """A vLLM that answers every row with one token, and writes down when it sleeps. It has a task of its own."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.listening = asyncio.create_task(listen(self.said))

    async def sleep(self, level: int) -> None:
        self.said.append("sleep")

    async def wake_up(self) -> None:
        self.said.append("wake")

    def shutdown(self, timeout: float) -> None:
        self.said.append("end")

    async def generate(self, prompt: object, wanted: object, name: str) -> AsyncIterator[Any]:
        self.said.append("row")
        await asyncio.sleep(0)
        experts = np.arange(3 * 4 * 2).reshape(3, 4, 2)
        out = SimpleNamespace(token_ids=[9], logprobs=[{9: SimpleNamespace(logprob=-0.5)}], routed_experts=experts)
        yield SimpleNamespace(outputs=[out])


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., VllmEngine]]:
    """Makes engines around a `Sleeper`, which hold weights."""
    policy, engines = tiny_policy(num_hidden_layers=4, first_k_dense_replace=2), []
    checkpoint.save(policy.model, policy.tokenizer, tmp_path)

    async def started(given: object) -> Sleeper:
        return Sleeper()

    def make(**arguments: Any) -> VllmEngine:
        engine = VllmEngine(tmp_path, "fp32", **arguments)
        engine.loop.call_soon_threadsafe(engine.open.set)
        engines.append(engine)
        return engine

    monkeypatch.setattr(vllm_engine_module, "_started", started)
    yield make
    for engine in engines:
        asyncio.run(engine.close())


@pytest.mark.parametrize(
    ("asked", "said"), [(True, ["row", "row", "sleep", "wake", "row", "sleep"]), (False, 3 * ["row"])]
)
def test_an_idle_vllm_sleeps_where_that_is_asked_for(
    sleeper: Callable[..., VllmEngine], asked: bool, said: list[str]
) -> None:
    engine = sleeper(arguments={"enable_sleep_mode": asked})
    for seeds in ((1, 2), (3,)):
        run(engine, [Request((5, 6), seeds)], Sampling(max_tokens=1))
    assert engine.llm.said == said


def test_vllm_is_ended_without_taking_it_for_a_failure(sleeper: Callable[..., VllmEngine]) -> None:
    said = (engine := sleeper()).llm.said
    asyncio.run(engine.close())
    assert said == ["task ended", "end"]


def test_nothing_of_an_ended_vllm_is_there_when_python_ends(
    sleeper: Callable[..., VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though what imports it is kept, as by an exception in one of its modules."""
    frames: list[FrameType] = []
    monkeypatch.setattr(vllm_engine_module, "known", lambda _: frames.append(sys._getframe(1)) or {})
    vllm = weakref.ref((engine := sleeper()).llm)
    asyncio.run(engine.close())
    gc.collect()
    assert vllm() is None


def test_routes_are_those_of_moe_layers_and_of_tokens_that_were_run(sleeper: Callable[..., VllmEngine]) -> None:
    engine = sleeper(record_routes=True)
    ((completion,),) = run(engine, [Request((5, 6), (1,))], Sampling(max_tokens=1))
    assert completion.routes is not None
    assert completion.routes.tolist() == np.arange(24).reshape(3, 4, 2)[:2, 2:].tolist()


def test_routes_are_there_where_vllm_was_faster_than_who_takes_what_it_samples(
    sleeper: Callable[..., VllmEngine],
) -> None:
    """vLLM 0.26 joins pieces that nobody has taken yet, without the experts; of whole rows it keeps the last."""
    places = [{token: SimpleNamespace(logprob=-token / 10)} for token in (9, 10)]
    experts = np.arange(3 * 4 * 2).reshape(3, 4, 2)

    async def hasty(prompt: object, wanted: Any, name: str) -> AsyncIterator[Any]:
        whole = wanted.output_kind.name == "CUMULATIVE"
        if whole:
            first = SimpleNamespace(token_ids=[9], logprobs=places[:1], routed_experts=None)
            yield SimpleNamespace(outputs=[first])
        row = SimpleNamespace(token_ids=[9, 10], logprobs=places, routed_experts=experts if whole else None)
        yield SimpleNamespace(outputs=[row])

    engine = sleeper(record_routes=True)
    engine.llm.generate = hasty
    ((completion,),) = run(engine, [Request((5, 6), (1,))], Sampling(max_tokens=2))
    assert (completion.token_ids, completion.logprobs) == ((9, 10), (-0.9, -1.0))
    assert completion.routes is not None
    assert completion.routes.tolist() == experts[:, 2:].tolist()


def test_experts_that_vllm_did_not_tell_are_left_to_the_router() -> None:
    known = moe_routes(np.ones((2, 2, 2)), CONFIG, 3)
    assert known[:, 0, 0].tolist() == [1, 1, -1]
    assert (moe_routes(None, CONFIG, 3) == -1).all()


def test_why_vllm_could_not_start_is_read_from_its_log() -> None:
    log = (
        "(EngineCore pid=7) ERROR 11-25 23:47:34 [core.py:1330] ValueError: no backend for 32 heads\n"
        "(EngineCore pid=7) Traceback (most recent call last):\n"
        '(EngineCore pid=7)   File "selector.py", line 193, in choose\n'
        "(EngineCore pid=7)     raise ValueError(\n"
        "(EngineCore pid=7) ValueError: no backend for 32 heads\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert vllm_engine_module.root_cause(log) == "ValueError: no backend for 32 heads"
    worker = "(Worker pid=8) ERROR 11-26 02:58:08 [multiproc_executor.py:953] ValueError: no kernel\n"
    assert vllm_engine_module.root_cause(worker + log) == "ValueError: no kernel"
    assert vllm_engine_module.root_cause("all is well\n") is None
