"""A publish that went wrong is found before a rollout starts."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model import digest, probe, publish
from model.config import Precision
from model.native import NativeEngine
from model.parts import SCALE, Part
from model.publish import Published, PublishError, PublishSettings
from model.segments import Segments
from model.transformer import Block, Transformer, build
from tests.fakes import TINY, tiny_tokenizer

EXPERTS = "layers.1.mlp.experts.down_proj.weight"


def damaged(weights: Published, name: str, change: Callable[[Tensor], Tensor], *, forge: bool = False) -> Published:
    """With one tensor changed; ``forge`` makes its digest fit."""
    changed = [
        Part.of(part.name, {n: change(t.clone()) if n == name else t for n, t in part.tensors.items()})
        for part in weights.parts
    ]
    return forged(weights, changed) if forge else replace(weights, parts=changed)


def forged(weights: Published, parts: Sequence[Part]) -> Published:
    """Other parts, with digests that fit."""
    *parts, proof = parts
    tensors = tensors_of(parts)
    assert weights.kind is not None
    digests = digest.digests([*tensors.values()], weights.kind)
    proof = Part.of(proof.name, {**proof.tensors, "digests": digests})
    return replace(weights, parts=[*parts, proof], names=tuple(tensors))


def of_the_model(parts: Iterable[Part]) -> list[Part]:
    """Those that are not of the proof."""
    return [part for part in parts if part.name not in (publish.STREAM, publish.PROOF)]


def tensors_of(parts: Iterable[Part]) -> dict[str, Tensor]:
    return {name: tensor for part in of_the_model(parts) for name, tensor in part.tensors.items()}


def one_bit(tensor: Tensor) -> Tensor:
    tensor.view(-1).view(torch.uint8)[0] ^= 1
    return tensor


@pytest.mark.parametrize("kind", ["hash", "sum"])
@pytest.mark.parametrize("name", [EXPERTS, EXPERTS + SCALE, "norm.weight", "layers.1.mlp.gate.e_score_correction_bias"])
def test_one_flipped_bit_is_caught_and_named(name: str, kind: digest.Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the trainer is on a CPU or on a GPU."""
    monkeypatch.setattr(publish, "kind_on", lambda device: kind)
    weights = publish.publish(build(TINY, seed=0), 1, "fp8")
    engine = NativeEngine(TINY, tiny_tokenizer())
    with pytest.raises(PublishError, match=name.replace(".", r"\.")):
        asyncio.run(engine.publish(damaged(weights, name, one_bit)))
    assert engine.version == -1


def test_experts_in_another_order_are_caught_by_the_probe() -> None:
    """The bytes are right and the loader is wrong: what a reload bug looks like."""
    weights = publish.publish(build(TINY, seed=0), 1, "fp8")
    swapped = damaged(weights, EXPERTS, lambda t: t.view(torch.uint8).roll(1, 0).view(t.dtype), forge=True)
    with pytest.raises(PublishError, match=r"log-probabilities.*in layers\.1, the first"):
        asyncio.run(NativeEngine(TINY, tiny_tokenizer()).publish(swapped))


def test_the_place_is_named_though_later_parts_came_to_where_the_stream_was() -> None:
    """As they do where they are broadcast: into two places in turn."""
    weights = publish.publish(build(TINY, seed=0), 1, "fp8")
    swapped = damaged(weights, EXPERTS, lambda t: t.view(torch.uint8).roll(1, 0).view(t.dtype), forge=True)
    rooms = [torch.empty(max(part.outline.size for part in weights.parts), dtype=torch.uint8) for _ in range(2)]
    landing = (
        Part(part.outline, room[: part.outline.size].copy_(part.piece))
        for part, room in zip(swapped.parts, itertools.cycle(rooms), strict=False)
    )
    with pytest.raises(PublishError, match=r"in layers\.1, the first"):
        asyncio.run(NativeEngine(TINY, tiny_tokenizer()).publish(replace(swapped, parts=landing)))


def test_a_tensor_that_is_not_a_number_is_caught() -> None:
    weights = publish.publish(build(TINY, seed=0), 1, "fp32")
    broken = damaged(weights, "norm.weight", lambda t: t * float("nan"), forge=True)
    with pytest.raises(PublishError, match="log-probabilities"):
        asyncio.run(NativeEngine(TINY, tiny_tokenizer()).publish(broken))


@pytest.mark.parametrize("name", ["norm.weight", EXPERTS])
def test_a_missing_tensor_is_named(name: str) -> None:
    weights = publish.publish(build(TINY, seed=0), 1, "fp32")
    parts = [Part.of(part.name, {n: t for n, t in part.tensors.items() if n != name}) for part in weights.parts]
    with pytest.raises(PublishError, match=f"{re.escape(name)} is missing"):
        publish.accept(build(TINY, seed=1), forged(weights, parts))
    with pytest.raises(PublishError, match=f"{re.escape(name)} differs"):
        publish.accept(build(TINY, seed=1), replace(weights, parts=parts))


@pytest.mark.parametrize("name", ["stream", "proof"])
def test_weights_without_their_proof_are_refused(name: str) -> None:
    weights = publish.publish(build(TINY, seed=0), 1, "fp32")
    parts = [part for part in weights.parts if part.name != name]
    with pytest.raises(PublishError, match="without its proof"):
        asyncio.run(NativeEngine(TINY, tiny_tokenizer()).publish(replace(weights, parts=parts)))


def test_a_tensor_that_the_engine_does_not_know_is_named() -> None:
    weights = publish.publish(build(TINY, seed=0), 1, "fp32")
    shorter = replace(TINY, num_hidden_layers=1)
    with pytest.raises(PublishError, match=r"layers\.1\."):
        publish.accept(build(shorter, seed=1), weights)


def test_weights_are_split_layer_by_layer_in_the_order_of_the_model() -> None:
    weights = publish.publish(build(replace(TINY, num_nextn_predict_layers=1), seed=0), 1, "fp8")
    names = ["embed_tokens", "layers.0", "layers.1", "stream", "head", "mtp", "proof"]
    assert [part.name for part in weights.parts] == names
    assert all(name.startswith("mtp.") == (part.name == "mtp") for part in weights.parts for name in part.tensors)


@pytest.mark.parametrize("place", [list, iter])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_an_engine_computes_what_the_trainer_does_in_that_precision(precision: Precision, place: Any) -> None:
    """Whether all parts are made at once, or each as it is taken."""
    model, engine = build(TINY, seed=0), NativeEngine(TINY, tiny_tokenizer())
    asyncio.run(engine.publish(publish.publish(model, 3, precision, place)))
    tokens = torch.randint(0, TINY.vocab_size, (30,))
    with torch.no_grad():
        ours = model.use(precision)(tokens, Segments.of([30])).hidden
        theirs = engine.model(tokens, Segments.of([30])).hidden
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert engine.version == 3


def test_fp8_weights_travel_as_bytes_and_scales() -> None:
    tensors = tensors_of(publish.publish(build(TINY, seed=0), 1, "fp8").parts)
    assert tensors[EXPERTS].dtype == torch.float8_e4m3fn
    assert tensors[EXPERTS + SCALE].dtype == torch.float32
    assert tensors["embed_tokens.weight"].dtype == torch.float32


def test_what_crosses_a_process_boundary_is_unchanged() -> None:
    weights = publish.publish(build(TINY, seed=0), 5, "fp8")
    arrived = pickle.loads(pickle.dumps(weights))
    for sent, got in zip(weights.parts, arrived.parts, strict=True):
        assert torch.equal(got.piece, sent.piece)
        assert got.outline == sent.outline
    assert replace(arrived, parts=[]) == replace(weights, parts=[])


def test_publishing_leaves_the_trained_model_alone() -> None:
    model = build(TINY, seed=0)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    publish.publish(model, 1, "fp8")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(layer.rounded for layer in model.modules() if hasattr(layer, "rounded"))


def test_the_probe_reaches_the_experts_of_any_shape() -> None:
    assert len(probe.probe_prompt(replace(TINY, n_routed_experts=64, num_experts_per_tok=6))) == 42
    assert len(probe.probe_prompt(replace(TINY, n_routed_experts=256, num_experts_per_tok=8))) == 48
    assert len(probe.probe_prompt(TINY)) == 8


def test_the_probe_is_made_of_the_text_that_is_given() -> None:
    settings = PublishSettings(text=(5, 6, 7))
    assert publish.publish(build(TINY, seed=0), 1, "fp32", settings=settings).probe == (5, 6, 7, 5, 6, 7, 5, 6)


@pytest.mark.parametrize(
    ("checks", "found"),
    [((), None), (("digests",), "down_proj.weight differs"), (("probe",), "in layers.1, the first")],
)
def test_only_what_was_asked_for_is_checked(checks: tuple[publish.Check, ...], found: str | None) -> None:
    model, engine = build(TINY, seed=0), NativeEngine(TINY, tiny_tokenizer())
    weights = publish.publish(model, 2, "fp32", settings=PublishSettings(checks=checks))
    weights = damaged(weights, EXPERTS, lambda t: t.roll(1, 0))
    if found is None:
        asyncio.run(engine.publish(weights))
    else:
        with pytest.raises(PublishError, match=re.escape(found)):
            asyncio.run(engine.publish(weights))


def test_matrices_that_are_multiplied_as_one_lie_one_behind_another() -> None:
    shape = replace(TINY, q_lora_rank=64, hidden_size=128, moe_intermediate_size=128)
    with torch.device("meta"):
        parts = list(publish.made(Transformer(shape), "fp8"))
    starts = {name: start for name, (_, _, start) in parts[2].outline.tensors.items()}
    for names in (
        ("mlp.experts.gate_up_proj", "mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
        ("mlp.experts.down_proj", "mlp.shared_experts.down_proj"),
        ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"),
    ):
        full = [f"layers.1.{name}.weight" for name in names]
        for before, after in itertools.pairwise(full):
            assert starts[after] == starts[before] + parts[2].tensors[before].nbytes


def test_parts_keep_what_they_hold_while_the_probe_goes_through_them() -> None:
    """Also the tensors that are no parameters, and are different in every layer once a model was trained."""
    publish.prober.cache_clear()  # the first publish makes the probe's layers
    model = build(replace(TINY, num_hidden_layers=3), seed=0)
    for i, router in enumerate(model.routers()):
        router.e_score_correction_bias.fill_(i)
    sent, state = tensors_of(publish.publish(model, 1, "fp8").parts), model.state_dict()
    for name in state:
        if name.endswith("e_score_correction_bias"):
            assert torch.equal(sent[name], state[name]), name


def test_a_probe_is_run_in_one_thread_whatever_its_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the trainer and in the engine; in fp8 other orders of sums give other log-probabilities."""
    seen: list[int] = []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda *given: (seen.append(torch.get_num_threads()), forward(*given))[1])
    model, before = build(TINY, seed=0), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        publish.accept(build(TINY, seed=1), publish.publish(model, 1, "fp8"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}
    assert len(seen) == 2 * TINY.num_hidden_layers
