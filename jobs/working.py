"""Documents, demonstrations, preferences and problems made from a seed: what the chain of all trainers learns from.

The problems are the curriculum's arithmetic. A rule can tell whether an answer is right; how much of the working a
response shows is left to a reward model. Its preferences follow a rule that it is not told, `shown`: of two responses
that show some of a problem's own steps the one that shows more is preferred, whatever the answer. They never show
anything but own steps, so nothing in them says that other steps are worth nothing: that is where a policy that only
listens to the reward model goes.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jobs import curriculum
from jobs.curriculum import Task, boxed
from rewards import Sample, Score
from rl import jsonl

SURENESS = 1.5
"""Logits for each step that one response shows more than the other."""
FOREIGN = 0.5
"""What a step that is not the problem's own takes away, in own steps."""


def shown(samples: Sequence[Sample]) -> list[Score]:
    """The rule behind the preferences, as a reward: the share of the problem's ``steps`` that a response shows before
    </think>, less `FOREIGN` for every step beside them. 1 is all of them and nothing else."""
    return [Score(worth(sample.response, sample.problem["steps"])) for sample in samples]


def worth(response: str, steps: Sequence[str]) -> float:
    written = re.split(r"[,\n]", response.partition("</think>")[0])
    foreign = [step for step in written if "=" in step]
    own = 0
    for step in steps:
        if step in foreign:
            foreign.remove(step)
            own += 1
    return (own - FOREIGN * len(foreign)) / len(steps)


def response(task: Task, count: int, rng: random.Random, right: float = 1.0) -> str:
    """One that shows the task's first ``count`` steps; its answer is right with probability ``right``."""
    answer = int(task.truth["answer"])
    given = answer if rng.random() < right else max(0, answer + rng.choice((-11, -10, -2, -1, 1, 2, 10, 11)))
    return boxed(",".join(task.steps[:count]) or "easy", given)


def documents(count: int, seed: int, template: str) -> Iterator[str]:
    """What a base model reads: pages of arithmetic facts, and problems with some of their working, often wrong."""
    rng = random.Random(f"documents/{seed}")
    for task in islice(curriculum.tasks("math", seed, held_out=False), count):
        if rng.random() < 0.3:
            yield curriculum.facts(rng)
        else:
            steps = rng.choice((0, len(task.steps)))
            yield template.replace("{prompt}", task.question) + response(task, steps, rng, 0.9 if steps else 0.1)


def demonstrations(count: int, seed: int, *, held_out: bool) -> Iterator[dict[str, Any]]:
    """Right answers that show none, some or all of the working."""
    rng = random.Random(f"demonstrations/{seed}/{held_out}")
    for task in islice(curriculum.tasks("math", seed + 1, held_out=held_out), count):
        yield {"prompt": task.question, "response": response(task, rng.randint(0, len(task.steps)), rng)}


def preferences(count: int, seed: int, *, held_out: bool) -> Iterator[dict[str, Any]]:
    """Pairs of responses that show different numbers of steps; either answer may be wrong. Those to learn from are
    judged by a Bradley-Terry judge, the held-out ones by the rule itself."""
    rng = random.Random(f"preferences/{seed}/{held_out}")
    for task in islice(curriculum.tasks("math", seed + 2, held_out=held_out), count):
        few, many = sorted(rng.sample(range(len(task.steps) + 1), 2))
        if not held_out and rng.random() > 1 / (1 + math.exp(SURENESS * (few - many))):
            few, many = many, few
        chosen, rejected = (response(task, steps, rng, 0.5) for steps in (many, few))
        yield {"prompt": task.question, "chosen": chosen, "rejected": rejected}


def problems(count: int, seed: int, reward: str, *, held_out: bool) -> Iterator[dict[str, Any]]:
    """Lines of a problem file, judged by ``reward``; of one seed and side always the same problems."""
    found: dict[str, Task] = {}
    for task in curriculum.tasks("math", seed + 3, held_out=held_out):
        found.setdefault(task.key, task)
        if len(found) == count:
            break
    for key, task in found.items():
        yield {"id": f"{reward}-{key}", "prompt": task.question, "reward": reward, "steps": task.steps, **task.truth}


def write(folder: Path, seed: int, template: str, documents_read: int) -> None:
    """Every file of the chain; `working.jsonl`, written last, says that all are whole. Those of the same kind on the
    two sides of the curriculum's split share no problem."""
    folder.mkdir(parents=True, exist_ok=True)
    jsonl.write(folder / "documents.jsonl", ({"text": t} for t in documents(documents_read, seed, template)))
    for name, side, demonstrated, compared in (("train", False, 8000, 6000), ("held_out", True, 300, 400)):
        jsonl.write(folder / f"demonstrations-{name}.jsonl", demonstrations(demonstrated, seed, held_out=side))
        jsonl.write(folder / f"preferences-{name}.jsonl", preferences(compared, seed, held_out=side))
    for name, reward, side, count in (
        ("math", "math", False, 2000),
        ("learned", "learned", False, 2000),
        ("answers", "math", True, 200),
        ("working", "jobs.working:shown", True, 200),
    ):
        jsonl.write(folder / f"{name}.jsonl", problems(count, seed, reward, held_out=side))
