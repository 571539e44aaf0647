"""New weights on their way from a trainer to rollout workers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs import cluster, config
from jobs.bench.publishes import hashes_of
from jobs.cluster import ClusterError, Handover
from jobs.config import GrpoRecipe, RecipeError
from model.parts import Part
from tests.jobs.conftest import Workspace


class Actor:
    """Has a GPU and keeps the calls that it is given."""

    def __init__(self, gpu: str | None) -> None:
        self.calls: dict[str, tuple[Any, ...]] = {}
        self.__ray_call__ = self._method(lambda _: gpu)
        self.listen = self._method(lambda host: (host, 7))
        self.share, self.join, self.send, self.release = (
            self._method(lambda *given, name=name: self.calls.update({name: given}))
            for name in ("share", "join", "send", "release")
        )

    def _method(self, answer: Callable[..., Any]) -> Any:
        async def remote(*given: Any) -> Any:
            return answer(*given)

        return SimpleNamespace(remote=remote)


def handover(workspace: Workspace, gpus: list[str | None], *overrides: str) -> Handover:
    recipe = config.read(workspace.recipe, GrpoRecipe, overrides)
    trainer, *workers = map(Actor, gpus)
    return Handover(trainer, workers, recipe, "127.0.0.1")


@pytest.mark.parametrize(
    ("gpus", "overrides", "way"),
    [
        ([None, None], [], "store"),
        (["a", "a"], [], "ipc"),
        (["a", "b", "c"], [], "broadcast"),
        (["a", "b"], ["cluster.transport=store"], "store"),
        (["a", "a"], ["cluster.transport=broadcast"], "broadcast"),
        (["a", "b"], ["rollout.engine=vllm"], "store"),
    ],
)
def test_the_way_suits_the_gpus_unless_the_recipe_names_one(
    workspace: Workspace, gpus: list[str | None], overrides: list[str], way: str
) -> None:
    made = handover(workspace, gpus, *overrides)
    asyncio.run(made.settle())
    assert made.way == way
    assert ("share" in made.trainer.calls) == (way == "ipc")
    assert all(("join" in actor.calls) == (way == "broadcast") for actor in (made.trainer, *made.workers))


def test_all_meet_at_the_trainer(workspace: Workspace) -> None:
    made = handover(workspace, ["a", "b", "b"], "cluster.transport=broadcast", "cluster.publish_timeout_s=7.5")
    asyncio.run(made.settle())
    (meeting, rank), *others = (actor.calls["join"] for actor in (made.trainer, *made.workers))
    assert meeting == ("127.0.0.1", 7, 3, False, 7.5)
    assert [rank, *(other[1] for other in others)] == [0, 1, 2]


def test_the_trainer_releases_what_all_have_taken(workspace: Workspace) -> None:
    made = handover(workspace, ["a", "a"])

    async def receiving() -> None:
        assert "release" not in made.trainer.calls

    async def run() -> None:
        await made.settle()
        await made.run(SimpleNamespace(number=3), receiving())

    asyncio.run(run())
    assert made.trainer.calls["send"] == made.trainer.calls["release"] == (3,)


def test_a_way_that_is_not_there_is_refused(workspace: Workspace) -> None:
    for gpus in ([None, None], ["a", "b"]):
        with pytest.raises(ClusterError, match="do not have one GPU together"):
            asyncio.run(handover(workspace, [*gpus], "cluster.transport=ipc").settle())
    with pytest.raises(RecipeError, match=r"cluster\.transport"):
        handover(workspace, [], "cluster.transport=nccl")


async def check_arrival(trainer: cluster.RemoteTrainer, engine: cluster.RemoteEngine) -> None:
    """Two publishes on their way at once, the second of which is what all have in the end."""
    for weights in (await trainer.publish(), await trainer.publish()):
        assert not isinstance(weights.parts, cluster.StoredParts)
        await engine.publish(weights)
    ours = await cluster.inside(trainer.actor, lambda actor: hashes_of(actor.trainer.policy.model))
    for worker in engine.actors:
        assert torch.equal(await cluster.inside(worker, lambda actor: hashes_of(actor.engine.model)), ours)
    assert await cluster.inside(trainer.actor, lambda actor: len(actor.transport.kept)) == 0


@pytest.mark.cluster
@pytest.mark.slow
def test_weights_are_broadcast_to_all_and_a_lost_worker_is_an_error(
    workspace: Workspace, local: cluster.Cluster
) -> None:
    overrides = ["cluster.transport=broadcast", "cluster.rollout_workers=2", "precision.rollout=fp32"]
    recipe = config.read(workspace.recipe, GrpoRecipe, overrides)
    trainer = local.trainer(recipe)
    engine = local.engine(recipe, trainer)

    async def run() -> None:
        await check_arrival(trainer, engine)
        await asyncio.gather(cluster.inside(engine.actors[1], lambda _: os._exit(1)), return_exceptions=True)
        began = time.monotonic()
        with pytest.raises(ClusterError, match="rollout worker 1 died"):
            await engine.publish(await trainer.publish())
        assert time.monotonic() - began < 20

    asyncio.run(run())


def published_on_gpus(recipe: GrpoRecipe) -> str | None:
    """The way that weights took."""
    with cluster.connect(None, 2) as ray:
        trainer = ray.trainer(recipe)
        engine = ray.engine(recipe, trainer)
        asyncio.run(check_arrival(trainer, engine))
        assert engine.handover is not None
        return engine.handover.way


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.parametrize(("gpus", "way"), [(1, "ipc"), (2, "broadcast")])
def test_gpus_are_published_to_the_way_that_suits_them(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, gpus: int, way: str
) -> None:
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"needs {gpus} CUDA devices")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
    each = gpus / 2
    overrides = [f"cluster.gpus_per_trainer={each}", f"cluster.gpus_per_rollout_worker={each}"]
    recipe = config.read(workspace.recipe, GrpoRecipe, [*overrides, "precision.rollout=fp32"])
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # whose Ray has these GPUs alone
        assert pool.submit(published_on_gpus, recipe).result() == way


def test_small_parts_are_stored_together_and_large_ones_alone() -> None:
    parts = [Part.of(str(i), {"w": torch.zeros(size, dtype=torch.uint8)}) for i, size in enumerate((256, 256, 512, 1))]
    names = [[part.name for part in some] for some in cluster.bundled(parts, 512)]
    assert names == [["0", "1"], ["2"], ["3"]]
