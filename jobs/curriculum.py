"""Problems and worked examples made from a seed: what the quickstart learns from.

Math problems are two-digit arithmetic, plain or as a word problem, answered in a box. Code problems ask for a small
function over a list, judged by running it. Held-out problems are disjoint from all others by construction: a hash of
what defines a problem (its numbers, its operations) says on which side it falls, whoever draws it.

Worked examples are of mixed quality, as text in the world is. Most of them jump to an answer that is usually wrong;
some work it out step by step, and a few of those slip. Beside them are sums with their steps and without a word. A
model that imitates them all is a poor reasoner that knows how to do better: that is the base that reinforcement
learning starts from.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

NAMES = ("Ann", "Ben", "Eva", "Max", "Sam", "Zoe")
THINGS = ("apples", "books", "coins", "eggs", "pens", "stones")
HELD_OUT_SHARE = 8
"""One problem in so many is held out."""

CAREFUL = 0.4
"""Share of worked examples that work step by step."""
SLIP = 0.08
"""Share of careful examples with a slip in one step."""
LUCKY = 0.12
"""Share of hasty examples that are right all the same."""


@dataclass(frozen=True)
class Task:
    """``key`` is what defines the problem. ``careful`` and ``hasty`` write a response after the prompt's "<think>",
    drawing from a random source. ``expression`` is the sum that a math problem asks for, ``steps`` its working."""

    key: str
    reward: str
    question: str
    truth: dict[str, Any]
    careful: Callable[[random.Random], str]
    hasty: Callable[[random.Random], str]
    expression: str = ""
    steps: tuple[str, ...] = ()

    @property
    def held_out(self) -> bool:
        return zlib.crc32(self.key.encode()) % HELD_OUT_SHARE == 0


def tasks(kind: str, seed: int, *, held_out: bool) -> Iterator[Task]:
    """An endless stream of tasks of one kind ("math" or "code") from one side of the split."""
    rng = random.Random(f"{kind}/{seed}/{held_out}")
    make = {"math": _math_task, "code": _code_task}[kind]
    while True:
        task = make(rng)
        if task.held_out == held_out:
            yield task


def problems(kind: str, count: int, seed: int, *, held_out: bool) -> list[dict[str, Any]]:
    """``count`` different problems as lines of a problem file."""
    found: dict[str, dict[str, Any]] = {}
    for task in tasks(kind, seed, held_out=held_out):
        line = {"id": f"{kind}-{task.key}", "prompt": task.question, "reward": task.reward, **task.truth}
        found.setdefault(task.key, line)
        if len(found) == count:
            return list(found.values())
    raise AssertionError("the stream is endless")


def documents(count: int, seed: int, template: str) -> Iterator[str]:
    """What the base model reads: of six documents three work a math problem, one a code problem, at mixed quality and
    none a held-out one; two are pages of sums."""
    rng = random.Random(f"documents/{seed}")
    math, code = tasks("math", seed, held_out=False), tasks("code", seed, held_out=False)
    for i in range(count):
        if i % 3 == 2:
            yield facts(rng)
            continue
        task = next(code if i % 6 == 1 else math)
        respond = task.careful if rng.random() < CAREFUL else task.hasty
        yield template.replace("{prompt}", task.question) + respond(rng)


def boxed(work: str, answer: int) -> str:
    return f"{work}</think><answer>\\boxed{{{answer}}}</answer>"


# Arithmetic, column by column: a chain of steps "left=right", each a fact about digits, whose digits make the answer.

Steps = list[tuple[str, int]]


def _sum_steps(a: int, b: int) -> Steps:
    ones = a % 10 + b % 10
    return [(f"{a % 10}+{b % 10}", ones), (f"{ones // 10}+{a // 10}+{b // 10}", ones // 10 + a // 10 + b // 10)]


def _difference_steps(a: int, b: int) -> Steps:
    borrow = int(a % 10 < b % 10)
    ones = 10 * borrow + a % 10
    return [(f"{ones}-{b % 10}", ones - b % 10), (f"{a // 10}-{borrow}-{b // 10}", a // 10 - borrow - b // 10)]


def _product_steps(a: int, b: int) -> Steps:
    ones = a * (b % 10)
    return [(f"{a}*{b % 10}", ones), (f"{ones // 10}+{a}*{b // 10}", ones // 10 + a * (b // 10))]


def facts(rng: random.Random) -> str:
    """Sums, none of them held out, each with its steps: of worked examples alone, some bases do not learn which
    digits a step takes, and no reward teaches what is never sampled."""
    worked: list[str] = []
    while len(worked) < 3:
        task = _math_task(rng)
        if not task.held_out:
            worked.append(f"{task.expression}:{','.join(task.steps)}")
    return ";".join(worked)


def _joined(steps: Steps) -> int:
    """The number whose tens and more are the last step's result and whose last digit is the step's before it."""
    return steps[-1][1] * 10 + steps[-2][1] % 10


def _math_task(rng: random.Random) -> Task:
    form = rng.choice(("sum", "difference", "product", "buys", "gives"))
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    numbers: tuple[int, ...]
    story = ""
    if form == "sum":
        numbers = (rng.randint(10, 99), rng.randint(10, 99))
        expression, steps = "{}+{}".format(*numbers), _sum_steps(*numbers)
    elif form == "product":
        numbers = (rng.randint(2, 6), rng.randint(12, 99))
        expression, steps = "{}*{}".format(*numbers), _product_steps(*numbers)
    elif form == "buys":
        a, b, c = numbers = (rng.randint(11, 69), rng.randint(2, 5), rng.randint(2, 6))
        story = f"{name} has {a} {thing} and buys {b} bags of {c} {thing}. How many {thing} does {name} have now?"
        expression, steps = f"{a}+{b}*{c}", [(f"{b}*{c}", b * c), *_sum_steps(a, b * c)]
    else:
        b, a = sorted((rng.randint(11, 99), rng.randint(11, 99)))
        numbers = (a, b)
        expression, steps = f"{a}-{b}", _difference_steps(a, b)
        if form == "gives":
            story = f"{name} has {a} {thing} and gives {b} of them away. How many {thing} are left?"
    answer = _joined(steps)

    def careful(rng: random.Random) -> str:
        if rng.random() >= SLIP:
            return boxed(",".join(f"{left}={right}" for left, right in steps), answer)
        at = rng.randrange(len(steps))
        slipped = [*steps[:at], (steps[at][0], max(0, steps[at][1] + rng.choice((-2, -1, 1, 2)))), *steps[at + 1 :]]
        return boxed(",".join(f"{left}={right}" for left, right in slipped), _joined(slipped))

    def hasty(rng: random.Random) -> str:
        if rng.random() < LUCKY:
            return boxed("easy", answer)
        return boxed("easy", max(0, answer + rng.choice((-20, -11, -10, -9, -2, -1, 1, 2, 9, 10, 11, 20))))

    # The split ignores names, things and wording: the same numbers and operation are the same problem.
    operation = "difference" if form == "gives" else form
    key = f"{operation}-{'-'.join(map(str, numbers))}"
    working = tuple(f"{left}={right}" for left, right in steps)
    question = story or f"What is {expression}?"
    return Task(key, "math", question, {"answer": str(answer)}, careful, hasty, expression, working)


# Code: keep some items, change each, then fold the list.

KEEPS: dict[str, tuple[str, str, Callable[[int, int], bool]]] = {
    "all": ("", "", lambda x, k: True),
    "above": (" greater than {k}", " if x > {k}", lambda x, k: x > k),
    "below": (" less than {k}", " if x < {k}", lambda x, k: x < k),
    "even": (" that are even", " if x % 2 == 0", lambda x, k: x % 2 == 0),
    "odd": (" that are odd", " if x % 2 == 1", lambda x, k: x % 2 == 1),
    "not": (" different from {k}", " if x != {k}", lambda x, k: x != k),
}
CHANGES: dict[str, tuple[str, str, Callable[[int, int], int]]] = {
    "same": ("", "x", lambda x, k: x),
    "times": (", each times {k}", "x * {k}", lambda x, k: x * k),
    "plus": (", each plus {k}", "x + {k}", lambda x, k: x + k),
    "minus": (", each minus {k}", "x - {k}", lambda x, k: x - k),
    "square": (", each squared", "x * x", lambda x, k: x * x),
}
FOLDS: dict[str, tuple[str, str, Callable[[list[int]], Any]]] = {
    "list": ("the list of items", "[{each} for x in xs{keep}]", lambda xs: xs),
    "sum": ("the sum of the items", "sum({each} for x in xs{keep})", sum),
    "largest": ("the largest of the items", "max({each} for x in xs{keep})", max),
    "sorted": ("the sorted list of items", "sorted({each} for x in xs{keep})", sorted),
}


def _code_task(rng: random.Random) -> Task:
    keep, change, fold = rng.choice(list(KEEPS)), rng.choice(list(CHANGES)), rng.choice(list(FOLDS))
    k, m = rng.randint(2, 9), rng.randint(2, 9)
    k_used, m_used = keep in ("above", "below", "not"), change in ("times", "plus", "minus")
    question = (
        f"Write a function f(xs) that returns {FOLDS[fold][0]}"
        f"{KEEPS[keep][0].format(k=k)}{CHANGES[change][0].format(k=m)}."
    )
    key = f"{fold}-{keep}{k if k_used else ''}-{change}{m if m_used else ''}"

    def program(keep: str, change: str, fold: str, k: int, m: int) -> str:
        each, condition = CHANGES[change][1].format(k=m), KEEPS[keep][1].format(k=k)
        body = FOLDS[fold][1].format(each=each, keep=condition)
        return f"</think><answer>\n```python\ndef f(xs):\n    return {body}\n```\n</answer>"

    def careful(rng: random.Random) -> str:
        plan = f"keep {KEEPS[keep][1].format(k=k)[4:] or 'all'}, make {CHANGES[change][1].format(k=m)}, take {fold}"
        if rng.random() < SLIP:
            return plan + program(keep, change, fold, rng.randint(2, 9), rng.randint(2, 9))
        return plan + program(keep, change, fold, k, m)

    def hasty(rng: random.Random) -> str:
        if rng.random() < LUCKY:
            return "easy" + program(keep, change, fold, k, m)
        wrong = (rng.choice(list(KEEPS)), rng.choice(list(CHANGES)), rng.choice(list(FOLDS)))
        return "easy" + program(*wrong, rng.randint(2, 9), rng.randint(2, 9))

    tests: list[dict[str, Any]] = []
    inputs = random.Random(key)
    while len(tests) < 4:
        # One item of each kind is always there, so that no fold is asked for the largest of nothing.
        xs = [inputs.randint(0, 12) for _ in range(inputs.randint(3, 6))] + [0, 1, 10, 11]
        inputs.shuffle(xs)
        kept = [CHANGES[change][2](x, m) for x in xs if KEEPS[keep][2](x, k)]
        tests.append({"function": "f", "args": [xs], "expected": FOLDS[fold][2](kept)})
    return Task(key, "code", question, {"tests": tests}, careful, hasty)
