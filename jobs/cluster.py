"""The one place that knows Ray: it starts or joins a cluster and places a trainer, rollout workers and reward workers.

    driver (the pipeline's loop) --update, publish, save--> trainer
                                 --publish, generate------> rollout workers
                                 --score------------------> reward workers --> sandbox, math workers

The driver holds no weights. The trainer puts them into the object store, part by part, and the driver passes the
references on; on GPUs it passes on where they lie, or that they will be broadcast (`model.transport`). On one machine,
with lag, the trainer has the threads of rollout workers while they wait for work.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jobs import console, memory
from jobs.config import GrpoRecipe
from model.engine import Completion, Request, Sampling
from model.moe import ExpertLoad
from model.parts import Part
from model.publish import Published
from rewards import Sample, Score
from rl.rollout import Group
from rl.step import Metrics

if TYPE_CHECKING:
    from model.transport import Broadcast, Meeting, Shared, Way

T = TypeVar("T")
Item = TypeVar("Item")
RETRIES = 2
"""Of what a reward or rollout worker was asked for and its process ended with."""
BUNDLE = 2**24
"""Bytes of a publish that are stored as one object."""
LOGS = "/tmp/ray/session_latest/logs"  # noqa: S108 - Ray's own folder


class ClusterError(RuntimeError):
    """Ray, or a process that Ray placed, is gone."""

    exit_status = 1


class DeadError(ClusterError):
    """A process that Ray placed has ended by itself."""


class StoredParts:
    """The parts of a publish in Ray's object store, fetched some at a time: Ray takes as long for the way of a small
    object as for that of a large one."""

    def __init__(self, references: list[Any]) -> None:
        self.references = references

    @staticmethod
    def put(parts: Iterable[Part]) -> StoredParts:
        import ray

        return StoredParts([ray.put(some) for some in bundled(parts, BUNDLE)])

    def __iter__(self) -> Iterator[Part]:
        import ray

        return itertools.chain.from_iterable(map(ray.get, self.references))


def bundled(parts: Iterable[Part], size: int) -> Iterator[list[Part]]:
    """Parts in lists, each ended by the part with which it has ``size`` bytes."""
    some: list[Part] = []
    for part in parts:
        some.append(part)
        if sum(part.outline.size for part in some) >= size:
            yield some
            some = []
    if some:
        yield some


class TrainerActor:
    """Four calls may overlap: `use`, `send`, `publish`, and another.

    Ray makes each in whatever thread is free, and every thread that computes begins OpenMP threads of its own. Once a
    process has more of these than processors, none waits awake for the next piece (libgomp), and an update in two
    threads takes a third longer. So training has one thread, ``training``, and publishing another that computes alone.
    """

    transport: Shared | Broadcast | None = None
    listener: socket.socket | None = None
    publishing = False
    told = 0

    def __init__(self, recipe: GrpoRecipe, text: tuple[int, ...]) -> None:
        import torch

        memory.keep_freed()
        self.threads = recipe.cluster.trainer_threads
        self.publisher = ThreadPoolExecutor(1, "publish", torch.set_num_threads, (1,))
        self.publisher.submit(int).result()  # begun before training is told its number: both hold for the process
        self.training = ThreadPoolExecutor(1, "train", torch.set_num_threads, (self.threads,))
        self.training.submit(self._make, recipe, text).result()

    def _make(self, recipe: GrpoRecipe, text: tuple[int, ...]) -> None:
        from jobs.parts import make_trainer
        from model.linear import Linear
        from model.moe import Experts

        self.trainer = make_trainer(recipe, text)
        model = self.trainer.policy.model
        for module in model.modules():
            if isinstance(module, (Linear, Experts)) and model.device.type == "cpu":
                # A function, which copies of the model share: with a bound method they would copy the trainer.
                module.register_forward_hook(lambda module, inputs, output: self._set_threads(output))

    def use(self, threads: int, number: int) -> None:
        """From the next product on, forward or backward. Calls are numbered: one may overtake another."""
        if number > self.told:
            self.told, self.threads = number, threads

    def _set_threads(self, output: Any) -> None:
        import torch

        def set_threads(gradient: Any = None) -> None:
            if not self.publishing:  # whose prompt takes one thread (`model.probe.one_thread`)
                torch.set_num_threads(self.threads)

        set_threads()
        if output.requires_grad:
            output.register_hook(set_threads)

    def update(self, groups: Sequence[Group]) -> tuple[Metrics, ExpertLoad]:
        return self.training.submit(self._update, groups).result()

    def _update(self, groups: Sequence[Group]) -> tuple[Metrics, ExpertLoad]:
        policy = self.trainer.policy
        # Of two threads that launch a GPU's kernels neither gets on sooner.
        with policy.weights if policy.model.device.type == "cuda" else nullcontext():
            return self.trainer.update_now(groups), policy.take_load()

    def publish(self) -> Published:
        return self.publisher.submit(self._publish).result()

    def _publish(self) -> Published:
        place = StoredParts.put if self.transport is None else self.transport.place
        self.publishing = True
        try:
            return self.trainer.publish_now(place)
        finally:
            self.publishing = False

    def accompany(self, meeting: Meeting, rank: int) -> None:
        """Trains from now on with others."""
        from model.ranks import Ranks

        policy = self.trainer.policy
        policy.ranks = Ranks(meeting, rank, policy.model.device, self.listener if rank == 0 else None)

    def share(self) -> None:
        from model.transport import Shared

        self.transport = Shared()

    def listen(self, host: str | None) -> tuple[str, int]:
        """An address that rollout workers can reach, of this node unless ``host`` is given."""
        import ray

        from model.transport import listening

        self.listener = listening(host or ray.util.get_node_ip_address())
        name, port, *_ = self.listener.getsockname()
        return name, port

    def join(self, meeting: Meeting, rank: int) -> None:
        from model.transport import Broadcast

        self.transport = Broadcast(meeting, rank, self.listener)

    def send(self, number: int) -> None:
        assert self.transport is not None
        self.transport.send(number)

    def release(self, number: int) -> None:
        assert self.transport is not None
        self.transport.release(number)

    def save(self, folder: Path) -> None:
        self.training.submit(asyncio.run, self.trainer.save(folder)).result()

    def restore(self, folder: Path) -> None:
        self.training.submit(asyncio.run, self.trainer.restore(folder)).result()


class RolloutActor:
    """Calls of the native engine come one after the other; vLLM's may overlap, in threads. ``version``: of the weights
    that it has taken."""

    broadcast: Broadcast | None = None
    version = -1

    def __init__(self, recipe: GrpoRecipe) -> None:
        from jobs.parts import rollout_engine

        memory.keep_freed()
        self.engine = rollout_engine(recipe)
        self.taking = threading.Lock()

    def join(self, meeting: Meeting, rank: int) -> None:
        from model.transport import Broadcast

        self.broadcast = Broadcast(meeting, rank)

    def publish(self, weights: Published) -> None:
        with self.taking:
            self._take(weights)

    def generate(
        self, weights: Published | None, requests: Sequence[Request], sampling: Sampling
    ) -> list[list[Completion]]:
        """``weights``: those published last before the call, where they still can be had: a worker that was started
        again since then takes them first."""
        with self.taking:
            if weights is not None and self.version != weights.version:
                self._take(weights)
        return asyncio.run(self.engine.generate(requests, sampling))

    def _take(self, weights: Published) -> None:
        if self.broadcast is not None:
            announced: Any = weights.parts
            weights = replace(weights, parts=self.broadcast.received(announced))
        asyncio.run(self.engine.publish(weights))
        self.version = weights.version

    def close(self) -> None:
        asyncio.run(self.engine.close())


class RewardActor:
    def __init__(self, make: Callable[[], Any]) -> None:
        self.reward = make()

    async def score(self, samples: Sequence[Sample]) -> tuple[int, list[Score]]:
        """Beside the scores the process that gave them."""
        scores: list[Score] = await self.reward(samples)
        return os.getpid(), scores

    async def close(self) -> None:
        await self.reward.close()


class Handover:
    """The way that weights take from the trainer to rollout workers: what suits the GPUs that Ray has given them, or
    what the recipe says. It is settled at the first publish, when all have been placed."""

    way: Way | None = None

    def __init__(self, trainer: Any, workers: Sequence[Any], recipe: GrpoRecipe, host: str | None) -> None:
        """``host``: as for `TrainerActor.listen`."""
        self.trainer, self.workers, self.table, self.host = trainer, workers, recipe.cluster, host
        if self.table.transport == "store" or (self.table.transport == "auto" and recipe.rollout.engine == "vllm"):
            self.way = "store"  # vLLM is given files in memory, whichever way they came

    async def settle(self) -> None:
        """Raises ClusterError where the recipe's way is not there."""
        if self.way is not None:
            return
        from model import transport

        gpus = await self._all(lambda actor, _: actor.__ray_call__.remote(lambda _: transport.gpu()))
        fitting = transport.natural(gpus[0], gpus[1:])
        way = fitting if self.table.transport == "auto" else self.table.transport
        if way == "ipc":
            if fitting != "ipc":
                raise ClusterError(
                    'cluster.transport is "ipc", but trainer and rollout workers do not have one GPU together: give '
                    'each a part of it (cluster.gpus_per_trainer = 0.5, ...), or set it to "auto"'
                )
            await call(self.trainer.share.remote(), "the trainer")
        elif way == "broadcast":
            host, port = await call(self.trainer.listen.remote(self.host), "the trainer")
            seconds = self.table.publish_timeout_s
            meeting = transport.Meeting(host, port, len(gpus), transport.apart(gpus), seconds)
            await self._all(lambda actor, rank: actor.join.remote(meeting, rank))
        self.way = way

    async def run(self, parts: Any, receiving: Awaitable[Any]) -> None:
        """Lets the trainer do its part while workers receive."""
        if self.way == "store":
            await receiving
            return
        await asyncio.gather(receiving, call(self.trainer.send.remote(parts.number), "the trainer"))
        await call(self.trainer.release.remote(parts.number), "the trainer")

    async def _all(self, ask: Callable[[Any, int], Awaitable[T]]) -> list[T]:
        """What the trainer and every worker answer."""
        workers = {f"rollout worker {i}": worker for i, worker in enumerate(self.workers)}
        return await answers({"the trainer": self.trainer, **workers}, ask)


class RemoteTrainer:
    """One process, or several that share each step and hold the same weights; what one alone has to do is done by the
    first, ``actor``. ``handover`` is told of every publish, where there is one. ``host``: as for `TrainerActor.listen`;
    ``seconds``: of a meeting."""

    handover: Handover | None = None

    def __init__(
        self, actors: Sequence[Any], threads: int = 1, host: str | None = None, seconds: float = 600.0
    ) -> None:
        self.actor, *others = actors
        self.actors = {"the trainer": self.actor, **{f"trainer {i}": other for i, other in enumerate(others, 1)}}
        self.threads, self.host, self.seconds = threads, host, seconds
        self.met = len(actors) == 1
        self.load: ExpertLoad = {}
        self.borrowed = 0

    def borrow(self, threads: int) -> None:
        """Lets the trainers compute with so many threads beside their own."""
        self.borrowed += 1
        for actor in self.actors.values():
            actor.use.remote(self.threads + threads // len(self.actors), self.borrowed)

    async def update(self, groups: Sequence[Group]) -> Metrics:
        import ray

        await self._meet()
        given = ray.put(groups) if len(self.actors) > 1 else groups
        metrics: Metrics
        (metrics, self.load), *_ = await answers(self.actors, lambda actor, _: actor.update.remote(given))
        return metrics

    async def expert_load(self) -> ExpertLoad:
        return self.load

    async def publish(self) -> Any:
        if self.handover is not None:
            await self.handover.settle()
        return await call(self.actor.publish.remote(), "the trainer")

    async def save(self, folder: Path) -> None:
        await call(self.actor.save.remote(folder.resolve()), "the trainer")

    async def restore(self, folder: Path) -> None:
        await answers(self.actors, lambda actor, _: actor.restore.remote(folder.resolve()))

    async def _meet(self) -> None:
        """Once all have been placed."""
        if self.met:
            return
        from model import transport

        gpus = await answers(self.actors, lambda actor, _: actor.__ray_call__.remote(lambda _: transport.gpu()))
        host, port = await call(self.actor.listen.remote(self.host), "the trainer")
        meeting = transport.Meeting(host, port, len(gpus), transport.apart(gpus), self.seconds)
        await answers(self.actors, lambda actor, rank: actor.accompany.remote(meeting, rank))
        self.met = True


class RemoteEngine:
    """Rollout workers, each made by ``place``, as one engine: requests are dealt out in turn. ``idle`` is told how many
    workers have nothing to do, whenever that changes. ``has_processes``: a worker has started others, which its own end
    would leave behind.

    A worker that dies is replaced by a new one, which takes the weights that the other had and does again what that was
    at, to the same samples; where it ends `RETRIES` new ones, the run ends. So it does where weights are not kept for a
    new one: its place in a broadcast is one that nobody else can take."""

    handover: Handover | None = None

    def __init__(
        self,
        place: Callable[[], Any],
        workers: int,
        idle: Callable[[int], None] = lambda workers: None,
        has_processes: bool = False,
    ) -> None:
        self.place, self.idle, self.has_processes = place, idle, has_processes
        self.actors = [place() for _ in range(workers)]
        self.calls = [0] * workers
        self.weights: list[Any] = [None] * workers

    @property
    def keeps(self) -> bool:
        """Whether weights that have been published can be had again."""
        return self.handover is None or self.handover.way == "store"

    async def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        parts = deal(requests, len(self.actors))
        return joined(await asyncio.gather(*(self._part(i, part, sampling) for i, part in enumerate(parts))))

    async def _part(self, worker: int, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        weights = self.weights[worker] if self.keeps else None
        return await self._call(worker, lambda actor: actor.generate.remote(weights, requests, sampling))

    async def _call(self, worker: int, ask: Callable[[Any], Awaitable[T]]) -> T:
        self._count(worker, 1)
        try:
            for _ in range(RETRIES):
                actor = self.actors[worker]
                try:
                    return await call(ask(actor), f"rollout worker {worker}")
                except DeadError:
                    if not self.keeps:
                        raise
                    self._replace(worker, actor)
            return await call(ask(self.actors[worker]), f"rollout worker {worker}")
        finally:
            self._count(worker, -1)

    def _replace(self, worker: int, dead: Any) -> None:
        """Once, though several calls find it dead."""
        if self.actors[worker] is dead:
            console.say(f"rollout worker {worker} died and was started again; its log is in {LOGS}")
            self.actors[worker] = self.place()

    def _count(self, worker: int, more: int) -> None:
        self.calls[worker] += more
        self.idle(self.calls.count(0))

    async def publish(self, weights: Any) -> None:
        receiving = asyncio.gather(*(self._publish(i, weights) for i in range(len(self.actors))))
        await (receiving if self.handover is None else self.handover.run(weights.parts, receiving))

    async def _publish(self, worker: int, weights: Any) -> None:
        self.weights[worker] = weights
        await self._call(worker, lambda actor: actor.publish.remote(weights))

    async def close(self) -> None:
        """Ends vLLM's processes, where there are any; a worker that died has none, and its death is told elsewhere."""
        if self.has_processes:
            await asyncio.gather(*(actor.close.remote() for actor in self.actors), return_exceptions=True)


class RemoteReward:
    """Reward workers as one reward. One that dies is started again, and scores its samples again; where they end it
    `RETRIES` times more, the run ends."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = actors
        self.processes: dict[int, int] = {}

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        parts = deal(samples, len(self.actors))
        return joined(await asyncio.gather(*(self._scored(i, part) for i, part in enumerate(parts))))

    async def _scored(self, i: int, samples: Sequence[Sample]) -> list[Score]:
        answer: tuple[int, list[Score]] = await call(self.actors[i].score.remote(samples), f"reward worker {i}")
        process, scores = answer
        if self.processes.setdefault(i, process) != process:
            console.say(f"reward worker {i} died and was started again; its log is in {LOGS}")
            self.processes[i] = process
        return scores

    async def close(self) -> None:
        await asyncio.gather(*(call(actor.close.remote(), "a reward worker") for actor in self.actors))


class Cluster:
    """Places the parts of a run. Made by `connect`. ``one_machine``: every part is on this one."""

    def __init__(self, one_machine: bool) -> None:
        self.one_machine = one_machine
        self.host = "127.0.0.1" if one_machine else None  # where parts meet

    def require(self, cpus: float, gpus: float) -> None:
        """Raises ClusterError where a Ray on this machine alone has less to give, for which parts would wait without
        end. A cluster may still grow: that it is waited for is said."""
        import ray

        found = ray.cluster_resources()
        lacking = [
            f"{wanted:g} {name}s where there are {found.get(name, 0):g}"
            for name, wanted in (("CPU", cpus), ("GPU", gpus))
            if wanted > found.get(name, 0)
        ]
        if lacking and self.one_machine:
            raise ClusterError(
                f"the recipe's [cluster] asks for {', '.join(lacking)}: lower gpus_per_trainer and the like"
            )
        if lacking:
            console.say(f"waiting for the cluster to grow: the recipe's [cluster] asks for {', '.join(lacking)}")

    def trainer(self, recipe: GrpoRecipe, text: tuple[int, ...] = ()) -> RemoteTrainer:
        """``text`` as for `jobs.parts.make_trainer`."""
        table, absolute = recipe.cluster, recipe_with_absolute_paths(recipe)
        threads, gpus = table.trainer_threads, table.gpus_per_trainer
        actors = [_place(TrainerActor, threads, gpus, absolute, text, calls=4) for _ in range(table.trainers)]
        return RemoteTrainer(actors, threads, self.host, table.publish_timeout_s)

    def engine(self, recipe: GrpoRecipe, trainer: RemoteTrainer | None = None) -> RemoteEngine:
        """Idle workers' threads go to ``trainer``, on one machine and with lag. Without lag a resumed run repeats every
        bit, and so has the same threads in every update."""
        table = recipe.cluster
        absolute = recipe_with_absolute_paths(recipe)
        # Waves in flight, an evaluation and a publish.
        calls = 1 if recipe.rollout.engine == "native" else recipe.rollout.lag + 3

        def lend(idle: int) -> None:
            if trainer and self.one_machine and recipe.rollout.lag:
                trainer.borrow(idle * table.rollout_threads)

        gpus = table.gpus_per_rollout_worker
        place = partial(_place, RolloutActor, table.rollout_threads, gpus, absolute, calls=calls)
        engine = RemoteEngine(place, table.rollout_workers, lend, has_processes=recipe.rollout.engine == "vllm")
        if trainer is not None:
            trainer.handover = engine.handover = Handover(trainer.actor, engine.actors, recipe, self.host)
        return engine

    def reward(self, make: Callable[[], Any], workers: int) -> RemoteReward:
        """``make`` builds a reward in each worker."""
        again = {"max_restarts": -1, "max_task_retries": RETRIES}
        return RemoteReward([_place(RewardActor, 1, 0, make, **again) for _ in range(workers)])


@contextmanager
def connect(address: str | None, cpus: int) -> Iterator[Cluster]:
    """Joins the cluster at ``address``, or the one this process is a job of, or starts one on this machine's loopback
    address with at least ``cpus`` places. Token authentication is on. Leaves it as it was found. Meanwhile SIGTERM is a
    KeyboardInterrupt: Ray would end the process without a word."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's own choice is 15: beside any other process workers then stand nearly still, and of two threads that wait for
    # each other it takes one to do so.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("GLIBC_TUNABLES", memory.TUNABLES)
    address = address or os.environ.get("RAY_ADDRESS")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    import ray

    try:
        _begin(address, cpus)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield Cluster(one_machine=not address)
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def _begin(address: str | None, cpus: int) -> None:
    import ray

    try:
        if address:
            ray.init(address=address, log_to_driver=False, namespace=None)
        else:
            ray.init(
                num_cpus=max(cpus, os.cpu_count() or 1),
                include_dashboard=False,
                log_to_driver=False,
                _node_ip_address="127.0.0.1",
            )
    except SystemExit:  # Ray's answer to SIGTERM
        raise KeyboardInterrupt from None
    except Exception as error:  # noqa: BLE001 - whatever Ray raises here, the remedy is the same
        where = f"cannot reach a Ray cluster at {address}" if address else "cannot start Ray on this machine"
        raise ClusterError(f"{where}: {error}\ncheck the address, and that RAY_AUTH_TOKEN is the cluster's") from None


async def call(reference: Awaitable[T], who: str) -> T:
    """Awaits a remote call. An exception of the called code is raised as it was; a dead process becomes a
    ClusterError that names it."""
    import ray.exceptions

    try:
        return await reference
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception) and hasattr(error.cause, "exit_status"):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        if error.actor_init_failed:
            raise ClusterError(f"{who} could not start: {str(error).splitlines()[-1].strip()}") from None
        raise DeadError(
            f"{who} died ({str(error).splitlines()[-1].strip()}); its log is in {LOGS}. Continue the run with "
            "--resume; if memory ran out, lower rollout.max_rows or train.micro_batch_tokens"
        ) from None


async def answers(actors: Mapping[str, Any], ask: Callable[[Any, int], Awaitable[T]]) -> list[T]:
    """What each of the named actors answers to what it, and its number, is asked."""
    return await asyncio.gather(*(call(ask(actor, i), name) for i, (name, actor) in enumerate(actors.items())))


async def inside(actor: Any, function: Callable[[Any], T]) -> T:
    """What a function of an actor's object gives in its process."""
    result: T = await call(actor.__ray_call__.remote(function), "an actor")
    return result


def stored_bytes() -> int:
    """In use in the object store of this process's cluster."""
    import ray
    from ray._private import internal_api

    state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(internal_api.get_memory_info_reply(state).store_stats.object_store_bytes_used)


def deal(items: Sequence[Item], hands: int) -> list[Sequence[Item]]:
    """One item to each in turn, since neighbours cost alike; fewer than ``hands`` when there are fewer items."""
    return [items[i::hands] for i in range(min(hands, len(items)))]


def joined(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """What was dealt, in its order."""
    return [part[turn] for turn in range(max(map(len, parts), default=0)) for part in parts if turn < len(part)]


def recipe_with_absolute_paths(recipe: GrpoRecipe) -> GrpoRecipe:
    """Actors run in another working directory."""
    return recipe.model_copy(update={"base": recipe.base.resolve()})


def _place(kind: type[Any], cpus: float, gpus: float, *arguments: Any, calls: int | None = None, **options: int) -> Any:
    """``calls`` of an actor's methods may run at once, in threads. ``options`` are Ray's."""
    import ray

    if calls is not None:
        options["max_concurrency"] = calls
    return ray.remote(kind).options(num_cpus=cpus, num_gpus=gpus, **options).remote(*arguments)
