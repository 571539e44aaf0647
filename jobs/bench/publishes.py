"""Many publishes in a row with sampling in between, under Ray: does anything leak, drift or stall?

Every publish is a real one, with its proof. The weights change at every tenth, by an update on what was sampled; in
between the same weights are published again, and the same prompts with the same seeds must then give the same tokens
with the same log-probabilities. At the end the engine's weights are compared with the trainer's, byte for byte.
Resident memory and file descriptors of all processes, and the bytes in the object store, are read after each tenth of
the publishes.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import cluster, console
from jobs.bench.publish import recipe_of
from jobs.config import GrpoRecipe, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from model.engine import Completion, Request
    from model.transformer import Transformer
    from rl.rollout import Group

CHANGE_EVERY = 10
SHAPE: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 2, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 96, "initializer_range": 0.1,
}  # fmt: skip
PROMPTS, SAMPLES, NEW_TOKENS = 4, 2, 8
FREED_EVERY = 1.0
"""Seconds between Ray's rounds of freeing (its free_objects_period_milliseconds)."""
SAME = {"native": 0.0, "vllm": 1e-3}
"""How far log-probabilities may be apart under equal weights: vLLM's arithmetic changes with what runs beside."""


def run_soak(count: int, engine: str) -> dict[str, Any]:
    from model.config import ModelConfig
    from model.transformer import build

    if engine not in SAME:
        raise RecipeError(f"--engine is one of {', '.join(SAME)}, not {engine!r}")
    with tempfile.TemporaryDirectory() as scratch, cluster.connect(None, 2) as ray:
        model = build(ModelConfig(**SHAPE), seed=0)
        recipe = recipe_of(Path(scratch), model, engine, "fp32")
        return asyncio.run(soak(count, recipe, ray.trainer(recipe), ray.engine(recipe)))


async def soak(
    count: int, recipe: GrpoRecipe, trainer: cluster.RemoteTrainer, engine: cluster.RemoteEngine
) -> dict[str, Any]:
    from model.engine import Request, Sampling

    requests = [Request((5 + i, 6, 7), tuple(range(SAMPLES * i, SAMPLES * (i + 1)))) for i in range(PROMPTS)]
    seconds: list[float] = []
    usage: list[dict[str, Any]] = []
    last: list[Any] = []
    drift, tokens_differ, changes = 0.0, 0, 0
    await engine.publish(await trainer.publish())  # both have started
    for number in range(count):
        began = time.perf_counter()
        await engine.publish(await trainer.publish())
        seconds.append(time.perf_counter() - began)
        sampled = await engine.generate(requests, Sampling(max_tokens=NEW_TOKENS))
        for before, after in zip(last, sampled, strict=True) if last else ():
            for a, b in zip(before, after, strict=True):
                tokens_differ += a.token_ids != b.token_ids
                drift = max([drift, *(abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=False))])
        last = sampled
        if number % CHANGE_EVERY == CHANGE_EVERY - 1:
            await trainer.update(groups_of(requests, sampled))
            changes, last = changes + 1, []
        if (number + 1) % max(1, count // 10) == 0:
            usage.append({"publishes": number + 1, **await used(trainer, engine)})
            console.say(str(usage[-1]))
    await engine.publish(await trainer.publish())
    differing = await compared(trainer, engine) if recipe.rollout.engine == "native" else None
    await engine.close()
    ordered = sorted(seconds)
    return {
        "engine": recipe.rollout.engine,
        "publishes": count,
        "weights_changed": changes,
        "seconds_median": ordered[count // 2],
        "seconds_p99": ordered[min(count - 1, count * 99 // 100)],
        "seconds_max": ordered[-1],
        "samples_that_differ_under_equal_weights": tokens_differ,
        "logprob_drift_under_equal_weights": drift,
        "tensors_that_differ_at_the_end": differing,
        "usage": usage,
    }


def groups_of(requests: Sequence[Request], sampled: Sequence[Sequence[Completion]]) -> list[Group]:
    """Groups whose first sample is better than the others."""
    from rewards import Score
    from rl.problems import Draw, Problem
    from rl.rollout import Group

    return [
        Group(
            Draw(Problem(str(i), "q", "none", {}), 0),
            request.prompt_ids,
            tuple(completions),
            tuple(Score(float(copy == 0)) for copy in range(len(completions))),
            tuple(1.0 if copy == 0 else -1.0 for copy in range(len(completions))),
        )
        for i, (request, completions) in enumerate(zip(requests, sampled, strict=True))
    ]


async def used(trainer: cluster.RemoteTrainer, engine: cluster.RemoteEngine) -> dict[str, Any]:
    """What this process and both actors hold, the processes that they have started included, and what lies in memory
    outside of them."""
    found: dict[str, Any] = {}
    groups = {"driver": [os.getpid()]}
    for name, actor in (("trainer", trainer.actor), ("engine", engine.actors[0])):
        groups[name] = tree(await cluster.inside(actor, lambda _: os.getpid()))
    for name, processes in groups.items():
        found[name] = {"rss_mb": round(sum(map(rss, processes)) / 1e6, 1), "files": sum(map(files, processes))}
    theirs = tuple(f"zeroth-publish-{pid}-" for pid in groups["engine"])
    left = sum(path.name.startswith(theirs) for path in Path("/dev/shm").iterdir())  # noqa: S108
    return {**found, "object_store_mb": round(await stored() / 1e6, 3), "folders_in_memory": left}


async def stored() -> int:
    """The bytes in the object store that somebody refers to: the least over two of Ray's rounds of freeing."""
    found = [cluster.stored_bytes()]
    began = time.perf_counter()
    while time.perf_counter() - began < 2 * FREED_EVERY:
        await asyncio.sleep(FREED_EVERY / 10)
        found.append(cluster.stored_bytes())
    return min(found)


async def compared(trainer: cluster.RemoteTrainer, engine: cluster.RemoteEngine) -> int:
    """How many tensors of the native engine's model are not the trainer's."""
    ours = await cluster.inside(trainer.actor, lambda actor: hashes_of(actor.trainer.policy.model))
    theirs = await cluster.inside(engine.actors[0], lambda actor: hashes_of(actor.engine.model))
    return int((ours != theirs).any(1).sum())


def hashes_of(model: Transformer) -> Tensor:
    """Of each tensor, in the order of its state."""
    from model.digest import hashes

    return hashes([*model.state_dict().values()])


def tree(root: int) -> list[int]:
    """A process and all that it has started."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
