"""Real gold answers against themselves, rewritten, and against each other's.

The data lie beside the checkout and are in no package. All of them: ZEROTH_ALL_GOLDS=1 (a minute or two).
"""

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from rewards.answers.exact import read_number
from rewards.answers.judge import judge, readings
from rewards.answers.tree import Unreadable
from rewards.math_answer import at_once, bare_answer

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FILES = {
    "MATH train": "math/train.jsonl.gz",
    "MATH test": "math/test.jsonl.gz",
    "OlympiadBench": "olympiadbench/test.jsonl.gz",
    "GSM8K": "gsm8k/test.jsonl.gz",
    "DAPO": "dapo/dapo_math_17k.jsonl.gz",
}
SAMPLE = 1_000_000 if os.environ.get("ZEROTH_ALL_GOLDS") else 1500
CROSS = 200_000 if os.environ.get("ZEROTH_ALL_GOLDS") else 5000

REWRITINGS = {
    "as it is": lambda gold: gold,
    "in a box": lambda gold: f"\\boxed{{{gold}}}",
    "in dollars": lambda gold: f"${gold}$" if "$" not in gold else gold,
    "as inline math": lambda gold: f"\\({gold}\\)" if "$" not in gold else gold,
    "with a full stop": lambda gold: gold if gold.endswith((".", "$")) or "$" in gold else f"{gold}.",
    "display style": lambda gold: f"\\displaystyle {gold}",
    "other fractions": lambda gold: gold.replace("\\frac", "\\dfrac"),
    "stretched brackets": lambda gold: (
        gold if "\\left" in gold or "[" in gold else gold.replace("(", "\\left(").replace(")", "\\right)")
    ),
    "thin spaces": lambda gold: gold.replace("+", "\\,+\\,").replace("=", "\\;=\\;"),
    "with a lead-in": lambda gold: gold if "\\text" in gold or gold[:1].isalpha() else f"The answer is {gold}",
}


def golds(name):
    path = DATA / FILES[name]
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with gzip.open(path, "rt") as rows:
        found = sorted({str(json.loads(row)["answer"]) for row in rows} - {""})
    return found if len(found) <= SAMPLE else random.Random(1).sample(found, SAMPLE)


def equal(gold, answer):
    given = bare_answer(answer)
    if given is None:
        return False
    verdict = at_once(gold, given)
    return verdict.equal if verdict is not None else judge(gold, given)


def parses(gold):
    try:
        return read_number(gold) is not None or bool(readings(gold))
    except Unreadable:
        return False


@pytest.mark.parametrize("name", FILES)
def test_every_gold_answer_that_parses_scores_against_itself_and_its_rewritings(name):
    failed = [
        (gold, how)
        for gold in golds(name)
        if parses(gold)
        for how, rewrite in REWRITINGS.items()
        if not equal(gold, rewrite(gold))
    ]
    assert failed == []


@pytest.mark.parametrize("name", FILES)
def test_nearly_every_gold_answer_parses(name):
    found = golds(name)
    unread = [gold for gold in found if not parses(gold)]
    print(f"{name}: {len(unread)} of {len(found)} distinct answers do not parse: {unread}")
    assert len(unread) <= 0.01 * len(found)


@pytest.mark.parametrize("name", ["MATH train", "MATH test", "OlympiadBench"])
def test_no_gold_answer_scores_against_a_different_problems_unequal_answer(name):
    """Random pairs and neighbours in the alphabet. A pair that does score must be equal by an independent look:
    the same text but for spelling, or Math-Verify's agreement, or one of the truly equal pairs listed."""
    found = golds(name)
    generator = random.Random(2)
    pairs = [(generator.choice(found), generator.choice(found)) for _ in range(CROSS)]
    pairs += [(found[index], found[index + 1]) for index in range(len(found) - 1)]
    hits = [(gold, answer) for gold, answer in pairs if gold != answer and equal(gold, answer)]
    doubtful = [pair for pair in hits if not same_spelling(*pair) and not agrees(*pair)]
    print(f"{name}: {len(hits)} pairs of different texts are equal; by our rules alone: {doubtful}")
    assert len(doubtful) <= 0.0005 * len(pairs)


def same_spelling(gold, answer):
    def bare(text):
        for noise in (" ", "\\,", "\\!", "{", "}", "\\left", "\\right", "dfrac", "tfrac", "\\$", "$", "."):
            text = text.replace(noise, "frac" if noise.endswith("frac") else "")
        return text

    return bare(gold) == bare(answer)


def agrees(gold, answer):
    from math_verify import parse, verify

    return verify(
        parse(f"${gold}$", parsing_timeout=None), parse(f"${answer}$", parsing_timeout=None), timeout_seconds=None
    )
