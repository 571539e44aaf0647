"""Our rewards inside a task of lm-evaluation-harness.

    process_results: !function zeroth_verifiers.process_results     a document is a problem: its own reward judges
    metric: !function zeroth_verifiers.math_equal                   beside other metrics, on what filters extract

``score`` is the mean over what could be judged; ``not_judged`` is the share that could not.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.evaluation import suites
from rewards import Reward, Sample, find
from rewards.math_answer import equivalent

_REWARDS: dict[str, Reward] = {}
_RUNNER = asyncio.Runner()
"""One event loop for all documents: a reward's workers belong to one."""


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The mean score of the responses to one document, by the reward that it names."""
    samples = [Sample(doc, response) for response in results]
    values = [score.value for score in _RUNNER.run(_reward(doc["reward"])(samples))]
    judged = [value for value in values if value is not None]
    return {
        "score": sum(judged) / len(judged) if judged else math.nan,
        "not_judged": 1 - len(judged) / len(values),
    }


def mean_of_judged(values: Sequence[float]) -> float:
    judged = [value for value in values if not math.isnan(value)]
    return sum(judged) / len(judged) if judged else math.nan


def math_equal(references: Sequence[str], predictions: Sequence[str], **_: Any) -> float:
    """Whether an answer says the same as the gold one; either may be bare or in a box."""
    return float(equivalent(str(references[0]), str(predictions[0])))


def generated_math(**_: Any) -> dict[str, Any]:
    """The suite of the same name as a data set."""
    from datasets import Dataset

    problems = suites.find("generated-math", Path())[1]
    return {"test": Dataset.from_list([dict(problem.fields) for problem in problems])}


def _reward(name: str) -> Reward:
    """One pool of workers a reward, for all documents."""
    if name not in _REWARDS:
        _REWARDS[name] = find(name)
    return _REWARDS[name]
