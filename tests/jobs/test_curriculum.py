from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from jobs import curriculum
from rewards import Sample, find

TEMPLATE = "User: {prompt}\nAssistant: <think>"


def some(kind: str, count: int, *, held_out: bool) -> list[curriculum.Task]:
    return list(itertools.islice(curriculum.tasks(kind, 3, held_out=held_out), count))


@pytest.mark.parametrize("kind", ["math", "code"])
def test_held_out_problems_are_never_trained_on(kind: str) -> None:
    train = {task.key for task in some(kind, 3000, held_out=False)}
    held_out = {task.key for task in some(kind, 1000, held_out=True)}
    assert len(held_out) > 50
    assert not train & held_out


def test_the_same_numbers_in_other_words_are_on_the_same_side() -> None:
    sides: dict[str, set[bool]] = {}
    for task in [*some("math", 2000, held_out=False), *some("math", 500, held_out=True)]:
        numbers = tuple(word for word in task.key.split("-")[1:])
        sides.setdefault(task.key, set()).add(task.held_out)
        assert all(number in task.question for number in numbers)
    assert all(len(side) == 1 for side in sides.values())


def test_documents_hold_no_held_out_problem() -> None:
    held_out = {task.question for task in some("math", 3000, held_out=True)}
    documents = list(curriculum.documents(2000, 1, TEMPLATE))
    asked = {d.removeprefix("User: ").split("\n")[0] for d in documents if d.startswith("User")}
    # Word problems carry names, which the split ignores: compare by what was asked of plain sums and products.
    assert not asked & held_out


def test_facts_are_right_and_of_no_held_out_problem() -> None:
    held_out = {task.expression for task in some("math", 3000, held_out=True)}
    rng = random.Random(5)
    facts = [fact.split(":") for _ in range(400) for fact in curriculum.facts(rng).split(";")]
    for expression, working in facts:
        assert expression not in held_out
        steps = [step.split("=") for step in working.split(",")]
        assert all(str(eval(left)) == right for left, right in steps)
        assert eval(expression) == 10 * int(steps[-1][1]) + int(steps[-2][1]) % 10


@pytest.mark.parametrize("kind", ["math", "code"])
def test_careful_work_without_a_slip_is_right_and_scores(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "SLIP", 0.0)
    tasks = some(kind, 40, held_out=False)
    samples = [
        Sample({"id": t.key, "prompt": t.question, "reward": kind, **t.truth}, t.careful(random.Random(i)))
        for i, t in enumerate(tasks)
    ]

    async def score() -> list[float | None]:
        reward = find(kind)
        try:
            return [s.value for s in await reward(samples)]
        finally:
            await reward.close()

    assert asyncio.run(score()) == [1.0] * 40


def test_hasty_work_is_mostly_wrong() -> None:
    tasks = some("math", 400, held_out=False)
    rng = random.Random(0)
    right = sum(f"\\boxed{{{t.truth['answer']}}}" in t.hasty(rng) for t in tasks)
    assert 0.05 < right / 400 < 0.25


def test_the_same_seed_makes_the_same_problems() -> None:
    assert curriculum.problems("code", 20, 5, held_out=True) == curriculum.problems("code", 20, 5, held_out=True)
    assert curriculum.problems("math", 20, 5, held_out=True) != curriculum.problems("math", 20, 6, held_out=True)
