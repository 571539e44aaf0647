"""From samples to figures: one row for each reward of each suite, and the comparison of two evaluations."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from jobs.evaluation.estimators import interval, paired_p_value, pass_at_k, votes
from jobs.evaluation.record import Judged, read
from rl.problems import ProblemError

Group = dict[str, list[Judged]]
"""The judged samples of one suite and reward, by problem."""


def groups(samples: Iterable[Judged]) -> dict[tuple[str, str], Group]:
    found: dict[tuple[str, str], Group] = {}
    for sample in sorted(samples, key=lambda s: s.copy):
        found.setdefault((sample.suite, sample.reward), {}).setdefault(sample.problem, []).append(sample)
    return found


def summary(samples: Iterable[Judged]) -> dict[str, dict[str, Any]]:
    """By suite and reward: the mean score (pass@1 averaged over the samples of a problem), pass@k, cons@k, each with
    its 95 % interval over problems, and what the samples were like."""
    result: dict[str, dict[str, Any]] = {}
    for (suite, reward), group in groups(samples).items():
        result.setdefault(suite, {})[reward] = row(group, reward)
    return result


def row(group: Group, reward: str) -> dict[str, Any]:
    """The figures of one suite's problems with one reward. A sample that could not be judged counts nowhere but in
    ``not_judged``; a problem counts for pass@k where k of its samples were judged."""
    samples = [sample for each in group.values() for sample in each]
    scores = {problem: [s.score for s in each if s.score is not None] for problem, each in group.items()}
    judged = {problem: each for problem, each in scores.items() if each}
    most = max((len(each) for each in group.values()), default=0)
    figures: dict[str, Any] = {
        "problems": len(group),
        "samples": most,
        "not_judged": sum(sample.score is None for sample in samples),
        "mean": estimate([statistics.fmean(each) for each in judged.values()]),
    }
    if all(score in (0.0, 1.0) for each in judged.values() for score in each):
        figures["pass@k"] = {str(k): _pass_at(judged, k) for k in ks(most)}
    if reward == "math" and most > 1:
        figures["cons@k"] = {str(most): estimate([vote(each) for each in group.values()])}
    return {**figures, **_lengths(samples)}


def estimate(values: Sequence[float]) -> dict[str, float | int] | None:
    """The mean over problems with its interval, or None where there is no problem."""
    if not values:
        return None
    low, high = interval(values)
    return {"value": statistics.fmean(values), "low": low, "high": high, "problems": len(values)}


def ks(samples: int) -> list[int]:
    """1, 2, 4, ... and all."""
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    return sorted({*powers, samples} - {0})


def _pass_at(judged: Mapping[str, Sequence[float]], k: int) -> dict[str, float | int] | None:
    return estimate([pass_at_k(len(each), int(sum(each)), k) for each in judged.values() if len(each) >= k])


def vote(samples: Sequence[Judged]) -> float:
    """cons@k of one problem: the score of the answer that most samples give, where answers of one value, by the math
    reward's rules, are one."""
    from rewards.math_answer import compare

    judged = [sample for sample in samples if sample.score is not None]
    kinds: list[str] = []
    places: dict[str, int] = {}
    for answer in dict.fromkeys(sample.answer for sample in judged):
        alike = (i for i, kind in enumerate(kinds) if kind and answer and compare(kind, answer).equal)
        places[answer] = next(alike, len(kinds))
        if places[answer] == len(kinds):
            kinds.append(answer)
    answers = [sample.answer for sample in judged]
    return votes(answers, [places[answer] for answer in answers], [sample.score or 0.0 for sample in judged])


def _lengths(samples: Sequence[Judged]) -> dict[str, float]:
    counts = [sample.tokens for sample in samples if sample.tokens is not None]
    if not counts:
        return {}
    cut = sum(sample.finish_reason == "length" for sample in samples)
    return {"tokens": statistics.fmean(counts), "cut_off": cut / len(samples)}


def table(result: Mapping[str, Mapping[str, Any]]) -> Table:
    """The summary for a person, a line for each figure."""
    made = Table("suite", "reward", "figure", "value", "95 % interval", "problems")
    for suite, rewards in result.items():
        for reward, found in rewards.items():
            figures = {"mean score": found["mean"]} if "pass@k" not in found else {}
            figures |= {
                f"{name[:-1]}{k}": one for name in ("pass@k", "cons@k") for k, one in found.get(name, {}).items()
            }
            for name, figure in figures.items():
                if figure is not None:
                    made.add_row(suite, reward, name, f"{figure['value']:.1%}", _range(figure), str(figure["problems"]))
            made.add_row(suite, reward, "samples", str(found["samples"]))
            if "tokens" in found:
                made.add_row(suite, reward, "mean tokens", f"{found['tokens']:.0f}")
                made.add_row(suite, reward, "cut off", f"{found['cut_off']:.1%}")
            made.add_row(suite, reward, "not judged", str(found["not_judged"]))
            made.add_section()
    return made


def _range(figure: Mapping[str, float]) -> str:
    return f"{figure['low']:.1%} to {figure['high']:.1%}"


def compare_folders(first: Path, second: Path) -> dict[str, dict[str, Any]]:
    """Both evaluations on the problems that they share. Raises ProblemError where they share none."""
    ours, theirs = groups(read(first)), groups(read(second))
    result: dict[str, dict[str, Any]] = {}
    for suite, reward in [key for key in ours if key in theirs]:
        found = paired(ours[suite, reward], theirs[suite, reward])
        if found:
            result.setdefault(suite, {})[reward] = found
    if not result:
        raise ProblemError(f"{first} and {second} share no problem that both could be judged on")
    return result


def paired(first: Group, second: Group) -> dict[str, Any] | None:
    """The difference of the mean scores, problem by problem: its interval, and the p-value of there being none."""
    means = [
        {problem: statistics.fmean(scores) for problem, each in group.items()
         if (scores := [s.score for s in each if s.score is not None])}
        for group in (first, second)
    ]  # fmt: skip
    shared = [problem for problem in means[0] if problem in means[1]]
    if not shared:
        return None
    differences = [means[1][problem] - means[0][problem] for problem in shared]
    low, high = interval(differences)
    return {
        "problems": len(shared),
        "left_out": len(first.keys() | second.keys()) - len(shared),
        "first": statistics.fmean(means[0][problem] for problem in shared),
        "second": statistics.fmean(means[1][problem] for problem in shared),
        "difference": {"value": statistics.fmean(differences), "low": low, "high": high},
        "better": sum(d > 0 for d in differences),
        "worse": sum(d < 0 for d in differences),
        "p_value": paired_p_value(differences),
    }


def comparison_table(result: Mapping[str, Mapping[str, Any]]) -> Table:
    made = Table("suite", "reward", "problems", "first", "second", "difference", "better/worse", "p")
    for suite, rewards in result.items():
        for reward, found in rewards.items():
            difference = f"{found['difference']['value']:+.1%} ({_range(found['difference'])})"
            made.add_row(
                suite, reward, str(found["problems"]), f"{found['first']:.1%}", f"{found['second']:.1%}",
                difference, f"{found['better']}/{found['worse']}", f"{found['p_value']:.2g}",
            )  # fmt: skip
    return made
