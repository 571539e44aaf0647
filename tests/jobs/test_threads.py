"""A trainer computes with the threads of rollout workers that have nothing to sample."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs import config
from jobs.cluster import Cluster, RemoteEngine, RemoteTrainer, TrainerActor
from model.attention import Attention
from model.engine import Request, Sampling
from model.policy import Policy
from rl.trainer import LocalTrainer
from tests.jobs.conftest import Workspace
from tests.rl.makers import group


class Worker:
    """A rollout worker whose calls end after some turns of the loop."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.generate = SimpleNamespace(remote=self._generate)
        self.publish = SimpleNamespace(remote=lambda weights: self._generate(weights, (), Sampling()))

    async def _generate(self, weights: Any, requests: Any, _: Sampling) -> list[list[Any]]:
        for _turn in range(self.turns):
            await asyncio.sleep(0)
        return [[] for _ in requests]


def test_an_engine_tells_how_many_workers_are_idle_as_they_begin_and_end() -> None:
    told: list[int] = []
    engine = RemoteEngine(iter([Worker(2), Worker(9)]).__next__, 2, told.append)
    asyncio.run(engine.generate([Request((1,), (0,)), Request((2,), (0,))], Sampling()))
    assert told == [1, 0, 1, 2]


def test_a_worker_that_takes_new_weights_is_not_idle() -> None:
    told: list[int] = []
    asyncio.run(RemoteEngine(iter([Worker(2), Worker(9)]).__next__, 2, told.append).publish(None))
    assert told == [1, 0, 1, 2]


@pytest.mark.parametrize(("lag", "one_machine", "lent"), [(1, True, [0, 3]), (0, True, []), (1, False, [])])
def test_threads_are_lent_with_lag_and_on_one_machine_alone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, lag: int, one_machine: bool, lent: list[int]
) -> None:
    overrides = [f"rollout.lag={lag}", "cluster.rollout_threads=3"]
    recipe = config.read(workspace.recipe, config.GrpoRecipe, overrides)
    monkeypatch.setattr("jobs.cluster._place", lambda *_, **__: Worker(1))
    used: list[tuple[int, int]] = []
    trainer = RemoteTrainer([SimpleNamespace(use=SimpleNamespace(remote=lambda *told: used.append(told)))], 2)
    engine = Cluster(one_machine).engine(recipe, trainer)
    asyncio.run(engine.generate([Request((1,), (0,))], Sampling()))
    assert used == [(2 + n, i) for i, n in enumerate(lent, 1)]


def test_a_trainer_keeps_to_what_it_was_told_last_though_it_arrives_first(workspace: Workspace) -> None:
    actor = TrainerActor(config.read(workspace.recipe, config.GrpoRecipe, []), ())
    actor.use(1, 2)
    actor.use(2, 1)
    assert actor.threads == 1
    actor.use(2, 3)
    assert actor.threads == 2


@pytest.mark.parametrize("publishing", [False, True])
def test_a_trainer_takes_new_threads_within_a_layer_forward_and_backward_but_beside_a_publish(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, publishing: bool
) -> None:
    actor = TrainerActor(config.read(workspace.recipe, config.GrpoRecipe, ["loss.kl=0"]), ())
    actor.publishing = publishing
    seen: list[int] = []
    told = itertools.count(1)
    attend, backward = Attention.attend, Policy.backward

    def attending(self: Attention, *arguments: Any) -> torch.Tensor:
        actor.use(2, next(told))
        out = attend(self, *arguments)
        seen.append(torch.get_num_threads())
        return out

    def going_back(self: Policy, *arguments: Any) -> None:
        actor.use(1, next(told))
        backward(self, *arguments)
        seen.append(torch.get_num_threads())

    monkeypatch.setattr(Attention, "attend", attending)
    monkeypatch.setattr(Policy, "backward", going_back)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        actor.update([group([[5, 1], [6, 1]], [1.0, 0.0])])
    finally:
        torch.set_num_threads(before)
    layers = actor.trainer.policy.model.c.num_hidden_layers
    assert seen == [1 if publishing else 2] * layers + [1]


def test_a_trainer_trains_in_one_thread_whichever_asks(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them would each begin OpenMP threads, which then no longer wait awake."""
    seen: dict[str, set[int]] = {"train": set(), "publish": set()}

    def seeing(kind: str, name: str) -> None:
        method = getattr(LocalTrainer, name)

        def instead(self: LocalTrainer, *arguments: Any) -> Any:
            seen[kind].add(threading.get_ident())
            return method(self, *arguments)

        monkeypatch.setattr(LocalTrainer, name, instead)

    for kind, name in (("train", "__init__"), ("train", "update_now"), ("publish", "publish_now")):
        seeing(kind, name)
    actor = TrainerActor(config.read(workspace.recipe, config.GrpoRecipe, ["loss.kl=0"]), ())
    actor.transport = SimpleNamespace(place=list)  # type: ignore[assignment]
    for _ in range(2):
        with ThreadPoolExecutor(1) as other:
            other.submit(actor.update, [group([[5, 1], [6, 1]], [1.0, 0.0])]).result()
            other.submit(actor.publish).result()
    assert [len(threads) for threads in seen.values()] == [1, 1]
    assert not seen["train"] & seen["publish"]
