"""Weights arrive as they were sent, or what went wrong is said at once."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from model import publish, transport
from model.native import NativeEngine
from model.parts import Part, decoded
from model.publish import Arriving, PublishError
from model.transformer import build
from model.transport import Broadcast, Meeting, Shared
from tests.fakes import TINY, tiny_tokenizer

SECONDS = 2.0


def meet(size: int, seconds: float = SECONDS) -> list[Broadcast]:
    """The members of a group, in threads of this process."""
    listener = transport.listening("127.0.0.1")
    meeting = Meeting(*listener.getsockname(), size, nccl=False, seconds=seconds)
    with ThreadPoolExecutor(size) as threads:
        joining = [threads.submit(Broadcast, meeting, rank, None if rank else listener) for rank in range(size)]
        return [member.result() for member in joining]


def published(place: Callable[..., Any]) -> Any:
    return publish.publish(build(TINY, seed=0), 4, "fp8", place)


def sent_by(trainer: Broadcast, weights: Any) -> list[Part]:
    return [part for part, _ in trainer.kept[weights.parts.number]]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def test_every_worker_gets_what_is_broadcast(pool: ThreadPoolExecutor) -> None:
    trainer, *workers = meet(3)
    for _ in range(2):
        weights = published(trainer.place)
        engines = [NativeEngine(TINY, tiny_tokenizer()) for _ in workers]
        taking = [
            pool.submit(asyncio.run, engine.publish(replace(weights, parts=worker.received(weights.parts))))
            for engine, worker in zip(engines, workers, strict=True)
        ]
        trainer.send(weights.parts.number)
        for engine, done in zip(engines, taking, strict=True):
            done.result()
            sent = {n: t for part in sent_by(trainer, weights)[:-1] for n, t in decoded(part.tensors)}
            assert all(torch.equal(tensor, sent[name]) for name, tensor in engine.model.state_dict().items())
        trainer.release(weights.parts.number)
        assert not trainer.kept


def test_parts_are_fetched_one_ahead_and_in_order() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for i in range(4):
            made.append(i)
            yield i
            if i == 2:
                raise PublishError("the third")

    used: list[int] = []
    with pytest.raises(PublishError, match="the third"):
        for i in transport.ahead(source()):
            while len(made) < min(i + 2, 3):
                time.sleep(0.001)
            assert len(made) <= i + 2
            used.append(i)
    assert used == [0, 1, 2]


def test_a_broadcast_waits_for_workers_that_are_busy(pool: ThreadPoolExecutor) -> None:
    """Longer than a broadcast may take."""
    trainer, early, late = meet(3, seconds=1.0)
    weights = published(trainer.place)
    sending = pool.submit(trainer.send, weights.parts.number)
    first = pool.submit(list, early.received(weights.parts))
    time.sleep(1.5)
    assert not sending.done()
    assert not first.done()
    parts = list(late.received(weights.parts))
    assert [part.name for part in parts] == [part.name for part in first.result()]
    sending.result()


def test_what_is_damaged_on_the_way_is_named(pool: ThreadPoolExecutor) -> None:
    trainer, worker = meet(2)
    weights = published(trainer.place)
    sent_by(trainer, weights)[2].tensors["layers.1.mlp.experts.down_proj.weight"].view(torch.uint8)[0, 0, 0] ^= 1
    pool.submit(trainer.send, weights.parts.number)
    taking: Future[list[Part]] = pool.submit(list, Arriving(replace(weights, parts=worker.received(weights.parts))))
    with pytest.raises(PublishError, match=r"layers\.1\.mlp\.experts\.down_proj\.weight"):
        taking.result()


def test_a_worker_that_ends_amid_a_broadcast_is_an_error_in_the_trainer() -> None:
    trainer, worker = meet(2)
    weights = published(trainer.place)
    parts = worker.received(weights.parts)
    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(trainer.send, weights.parts.number)
        next(parts)
        del parts, worker
        with pytest.raises(PublishError, match="a broadcast of weights failed"):
            sending.result()


def test_a_worker_that_hangs_amid_a_broadcast_is_an_error_in_time(pool: ThreadPoolExecutor) -> None:
    trainer, slow, other = meet(3, seconds=1.0)
    weights = published(trainer.place)
    hanging = slow.received(weights.parts)
    began = time.monotonic()
    taking = pool.submit(list, other.received(weights.parts))
    sending = pool.submit(trainer.send, weights.parts.number)
    next(hanging)
    errors = [future.exception() for future in (sending, taking)]
    assert any(isinstance(error, PublishError) for error in errors)
    assert time.monotonic() - began < 10


def test_workers_that_do_not_come_are_missed_in_time() -> None:
    listener = transport.listening("127.0.0.1")
    meeting = Meeting(*listener.getsockname(), 2, nccl=False, seconds=1.0)
    with pytest.raises(PublishError, match="did not meet at 127"):
        Broadcast(meeting, 0, listener)


def test_a_trainer_that_is_gone_is_an_error_in_the_worker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        meeting = Meeting(*free.getsockname(), 2, nccl=False, seconds=1.0)
    with pytest.raises(PublishError, match="did not meet"):
        Broadcast(meeting, 1)


def test_a_shared_part_is_the_trainers_memory() -> None:
    shared = Shared()
    weights, plain = published(shared.place), published(list)
    for sent, got in zip(plain.parts, weights.parts, strict=True):
        assert got.outline == sent.outline
        assert all(
            torch.equal(got.tensors[name].view(torch.uint8), t.view(torch.uint8)) for name, t in sent.tensors.items()
        )
    shared.kept[0][0].part.piece.zero_()
    assert not next(iter(weights.parts)).tensors["embed_tokens.weight"].any()
    shared.release(0)
    assert not shared.kept


@pytest.mark.parametrize(
    ("trainer", "workers", "way"),
    [
        (None, [None], "store"),
        ("a", ["a"], "ipc"),
        ("a", ["a", "a"], "ipc"),
        ("a", ["b"], "broadcast"),
        ("a", ["b", "c"], "broadcast"),
        ("a", ["b", "b"], "store"),
        ("a", ["a", "b"], "store"),
        ("a", ["b", None], "store"),
        (None, ["a"], "store"),
    ],
)
def test_the_way_follows_from_the_gpus(trainer: str | None, workers: list[str | None], way: str) -> None:
    assert transport.natural(trainer, workers) == way
