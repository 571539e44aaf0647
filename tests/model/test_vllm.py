"""vLLM as an engine, on a CPU: the same promises as the native engine's, the same proof of a publish."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model import publish
from model.engine import Completion, EngineError, Request, Sampling
from model.publish import Published, PublishError
from model.receiver import parts_in, write_part
from model.segments import Segments
from model.transformer import Transformer, build
from model.vllm_engine import VllmEngine, check_sampling
from tests.fakes import LOADABLE, TINY, tiny_tokenizer
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
    for number, part in enumerate(damaged(weights, EXPERTS + publish.SCALE, one_bit).parts):
        write_part(part, tmp_path, number)
    (tmp_path / "end").touch()
    with pytest.raises(PublishError, match=re.escape(EXPERTS + publish.SCALE)):
        for part in parts_in(tmp_path, 0):
            publish.check_bytes(part)


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
