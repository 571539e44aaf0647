"""Publishes on a GPU, many in a row: the same memory, tables and graphs, and always the weights of the day."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from torch import Tensor

from model import publish
from model.config import Precision
from model.native import NativeEngine
from model.parts import Part
from model.publish import Published, PublishError, PublishSettings
from model.transformer import Transformer
from tests.fakes import SERVED, tiny_policy, tiny_tokenizer
from tests.model.test_publish import of_the_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
Pair = tuple[Transformer, NativeEngine]
Place = Callable[[Iterable[Part]], Iterable[Part]]
NATIVE = PublishSettings(to_kernels=True)
CHANGES = [{}, {"n_shared_experts": 2}, {"q_lora_rank": None, "num_nextn_predict_layers": 1}]


@pytest.fixture(params=["bf16", "fp8"])
def precision(request: pytest.FixtureRequest) -> Precision:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=CHANGES, ids=["one shared expert", "two", "MTP"])
def pair(request: pytest.FixtureRequest) -> Pair:
    policy = tiny_policy(**{**SERVED, **request.param})
    return policy.model, NativeEngine(policy.model.c, tiny_tokenizer(), device="cuda")


@torch.no_grad()
def train(model: Transformer) -> None:
    for p in model.parameters():
        p.add_(torch.randn_like(p), alpha=0.01)


def pieces(parts: Iterable[Part]) -> list[Tensor]:
    return [t.contiguous().view(torch.uint8).clone() for part in parts for t in part.tensors.values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def on_host(parts: Iterable[Part]) -> list[Part]:
    return [part.to(torch.device("cpu")) for part in parts]


def served(engine: NativeEngine) -> list[Tensor]:
    from model.serving import _flat

    assert engine.graphs is not None
    own = engine.graphs.served
    return [*_flat(((own.embedding, own.norm, own.head), own.drafter, own.layers))]


def publish_to(
    engine: NativeEngine, model: Transformer, precision: Precision, version: int, place: Place = list
) -> Published:
    weights = publish.publish(model, version, precision, place, NATIVE)
    asyncio.run(engine.publish(weights))
    return weights


def damaging(name: str, parts: Iterable[Part]) -> Iterator[Part]:
    for part in parts:
        if name in part.tensors:
            part.tensors[name].view(-1).view(torch.uint8)[5] ^= 1
        yield part


def breaking_off(parts: Iterable[Part]) -> Iterator[Part]:
    yield from itertools.islice(parts, 2)
    raise InterruptedError


def test_every_publish_is_of_the_weights_as_they_are(pair: Pair, precision: Precision) -> None:
    """Run as it is, recorded, replayed; beside parts that were made one tensor after another, by an engine that never
    had others."""
    model, engine = pair
    places = set()
    for version in range(6):
        train(model)
        parts = publish_to(engine, model, precision, version).parts
        found = of_the_model(parts)
        assert same(pieces(found), pieces(publish.made(model, precision, to_kernels=True)))
        places.add(tuple(part.piece.data_ptr() for part in found))
        del parts, found
        new = NativeEngine(model.c, tiny_tokenizer(), device="cuda")
        publish_to(new, model, precision, version)
        assert same(served(engine), served(new))
    assert len(places) == 1


def test_parts_that_somebody_holds_are_left_alone(pair: Pair, precision: Precision) -> None:
    model, engine = pair
    first = publish.publish(model, 1, precision)
    before = pieces(first.parts)
    train(model)
    for version in range(2, 5):
        publish_to(engine, model, precision, version)
    assert same(pieces(first.parts), before)
    asyncio.run(engine.publish(first))
    assert engine.version == 1


@pytest.mark.parametrize(
    "name",
    ["mlp.experts.gate_up_proj.weight", "self_attn.kv_b_proj.weight", "mlp.gate.weight", "input_layernorm.weight"],
)
@pytest.mark.parametrize("place", [list, iter])
def test_damage_is_named_whatever_becomes_of_the_tensor(
    pair: Pair, precision: Precision, name: str, place: Place
) -> None:
    """What is copied as it is, and what only something made of it is kept of; a publish after that is a good one."""
    model, engine = pair
    for version in range(3):
        publish_to(engine, model, precision, version)
        with pytest.raises(PublishError, match=f"layers.1.{name} differs"):
            publish_to(engine, model, precision, 9, lambda parts: place(damaging(f"layers.1.{name}", parts)))
    publish_to(engine, model, precision, 10)


def test_parts_that_are_taken_as_they_are_made_are_the_weights_of_then(pair: Pair, precision: Precision) -> None:
    """Though they are changed right after, and the publish before broke off."""
    model, engine = pair
    other = NativeEngine(model.c, tiny_tokenizer(), device="cuda")
    for version in range(5):
        publish_to(other, model, precision, version)
        with pytest.raises(InterruptedError):
            publish_to(engine, model, precision, 9, breaking_off)
        publish_to(engine, model, precision, version, iter)
        train(model)
        assert same(served(engine), served(other))


def test_a_publish_that_is_still_to_be_made_keeps_its_place(pair: Pair, precision: Precision) -> None:
    model, engine = pair
    waiting = publish.publish(model, 1, precision, iter, NATIVE)
    held = publish_to(engine, model, precision, 2)
    before = pieces(held.parts)
    asyncio.run(engine.publish(waiting))
    assert engine.version == 1
    assert same(pieces(held.parts), before)


def test_weights_in_another_place_are_found_there(pair: Pair, precision: Precision) -> None:
    """A parameter's data may be exchanged, and a parameter itself."""
    model, engine = pair
    for version in range(2):
        publish_to(engine, model, precision, version)
    model.norm.weight.data = torch.full_like(model.norm.weight, 2.0)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 3)
    publish_to(engine, model, precision, 2)
    assert engine.graphs is not None
    assert torch.equal(engine.graphs.served.norm, model.norm.weight)
    assert same(
        pieces(of_the_model(publish.publish(model, 3, precision).parts)), pieces(publish.made(model, precision))
    )


def test_weights_from_host_memory_arrive_as_well(pair: Pair, precision: Precision) -> None:
    """As through the object store."""
    model, engine = pair
    new = NativeEngine(model.c, tiny_tokenizer(), device="cuda")
    for version in range(9):
        train(model)
        weights = publish.publish(
            model, version, precision, lambda parts: [part.to(torch.device("cpu")) for part in parts]
        )
        asyncio.run(engine.publish(weights))
        publish_to(new, model, precision, version)
        assert same(served(engine), served(new))


def test_weights_of_a_trainer_without_kernels_are_taken_and_checked(pair: Pair, precision: Precision) -> None:
    model, engine = pair
    weights = publish.publish(model.cpu(), 1, precision)
    assert not weights.kernels
    asyncio.run(engine.publish(weights))
    assert engine.version == 1
    (stream,) = (part for part in weights.parts if part.name == publish.STREAM)
    stream.tensors["stream"][1] *= -1  # as if the first layer had another output, and the second another input
    with pytest.raises(PublishError, match=r"output of layers\.0 .* differs from the trainer's by \d\S* of its size"):
        asyncio.run(engine.publish(weights))


def test_what_moves_weights_leaves_multiprocessors_alone() -> None:
    """Launched or recorded, which may be at the same time and hence on other streams."""
    from model.replayed import Recorder, moving, moving_stream
    from tests.model.kernels.places import places

    device = torch.empty(0, device="cuda").device
    if moving_stream(device) is None:
        pytest.skip("CUDA cannot part this GPU")
    every = torch.cuda.get_device_properties(device).multi_processor_count
    assert len(places(device).unique()) == every
    with moving(device):
        assert len(places(device).unique()) <= every * 6 // 7
    recorder, seen = Recorder.on(device, moving=True), torch.empty(0)
    assert recorder is not None
    assert recorder.stream != moving_stream(device)

    def look() -> None:
        nonlocal seen
        seen = places(device)

    recorder.record(look)()
    assert len(seen.unique()) <= every * 6 // 7
