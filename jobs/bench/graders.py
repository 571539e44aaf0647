"""`zeroth bench graders`: our scoring, lm-evaluation-harness's and Math-Verify's on the same outputs, and where they
disagree.

Outputs of models on GSM8K, each known to be right or wrong, their last line "A: 18" with the number in a box; and
answers to MATH-500 that are right or wrong by construction: gold answers rewritten, and spoilt, in the one sentence
that lm-eval's task looks for, "Final Answer: The final answer is $\\boxed{...}$. I hope it is correct." The scoring of
lm-eval is that of its tasks gsm8k_cot_zeroshot (flexible-extract) and minerva_math500 (exact_match).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import console
from jobs.config import RecipeError
from jobs.options import AsJson, Out

LIMIT_S = 10.0
GRADERS = ("zeroth", "lm-eval", "Math-Verify")
ENDING = "Final Answer: The final answer is $\\boxed{{{answer}}}$. I hope it is correct."


LABELLED = "as its data set labels it"


@dataclass(frozen=True)
class Output:
    """A response to a problem, ``right`` or not, and ``because`` of what. ``task`` names the scoring of lm-eval, whose
    reference is the worked ``solution``."""

    task: str
    kind: str
    problem: str
    gold: str
    solution: str
    answer: str
    response: str
    right: bool
    because: str


def command(
    data: Annotated[Path, typer.Option(help="The folder with the data sets, as for zeroth eval.")] = Path("data"),
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Our scoring beside lm-eval's and Math-Verify's: how often each is right, and every disagreement."""
    from rich.table import Table

    from jobs.bench import record

    try:
        import lm_eval.tasks.minerva_math.utils  # noqa: F401
    except (ImportError, AssertionError) as error:
        raise RecipeError(
            f"lm-eval's scoring of MATH does not import here ({error}); it takes antlr4 4.11 only: pip install "
            "--target DIR antlr4-python3-runtime==4.11.0, then PYTHONPATH=DIR zeroth bench graders"
        ) from None
    outputs = [*gsm8k(data), *math500(data)]
    verdicts = asyncio.run(judged(outputs, workers))
    results = record.stamped({"bench": "graders", **compared(outputs, verdicts)})
    if as_json or out:
        record.emit(results, out)
    table = Table("outputs", "count", *GRADERS, "disagreements")
    for name, row in results["outputs"].items():
        right = (f"{row['agree_with_truth'][grader]} right" for grader in GRADERS)
        table.add_row(name, str(row["count"]), *right, str(row["disagreements"]))
    console.console.print(table)


def gsm8k(data: Path) -> Iterator[Output]:
    """Each output of a model in the preference pairs on GSM8K's test problems, once; ``A: 18`` is its answer."""
    from jobs.evaluation import suites

    solutions = {row["problem"]: row for row in suites.rows(data / "gsm8k" / "test.jsonl.gz")}
    found: dict[tuple[str, str], bool] = {}
    for pair in suites.rows(data / "preferences" / "gsm8k_test_solution_pairs.jsonl.gz"):
        found[pair["prompt"], pair["chosen"]] = True
        found.setdefault((pair["prompt"], pair["rejected"]), False)
    for (prompt, text), right in found.items():
        row, (work, _, answer) = solutions[prompt], text.rpartition("\nA:")
        answer = answer.strip()
        response = f"{work}\nA: \\boxed{{{answer}}}" if work else text
        known = (row["id"], row["answer"], row["solution"])
        yield Output("gsm8k", "outputs of models", *known, answer, response, right, LABELLED)


def math500(data: Path) -> Iterator[Output]:
    """Answers made from the gold ones."""
    from jobs.evaluation import suites

    rows = list(suites.rows(data / "math" / "math500.jsonl.gz"))
    for i, row in enumerate(rows):
        gold = row["answer"]
        made = {kind: making.make(gold) for kind, making in MADE.items()}
        other = rows[(i + 1) % len(rows)]["answer"]
        made[ANOTHER] = other if other.removeprefix("x=") != gold.removeprefix("x=") else None
        for kind, answer in made.items():
            if answer is not None:
                right, because = MADE[kind].right, MADE[kind].because
                response = ENDING.format(answer=answer)
                yield Output("math500", kind, row["id"], gold, row["solution"], answer, response, right, because)


def _slashed(gold: str) -> str | None:
    found = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", gold)
    return f"{found[1]}{found[2]}/{found[3]}" if found else None


def _turned(gold: str) -> str | None:
    """a/b as b/a, where that is another number."""
    found = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", gold)
    return rf"{found[1]}\frac{{{found[3]}}}{{{found[2]}}}" if found and found[2] != found[3] else None


def _whole(gold: str) -> int | None:
    return int(gold) if re.fullmatch(r"-?\d+", gold) else None


def _changed(gold: str, old: str, new: str) -> str | None:
    return gold.replace(old, new) if old in gold else None


def _stretched(gold: str) -> str | None:
    plain = "(" in gold and "\\left" not in gold
    return gold.replace("(", "\\left(").replace(")", "\\right)") if plain else None


def _not_stretched(gold: str) -> str | None:
    return gold.replace("\\left", "").replace("\\right", "") if "\\left" in gold else None


def _reversed(gold: str) -> str | None:
    """A list without brackets, from its end."""
    parts = gold.split(",")
    plain = len(parts) > 1 and not re.search(r"[()\[\]{}\\]", gold) and not re.fullmatch(r"[\d,]+", gold)
    return ",".join(part.strip() for part in reversed(parts)) if plain else None


def _whole_with(make: Callable[[int], str]) -> Callable[[str], str | None]:
    def made(gold: str) -> str | None:
        number = _whole(gold)
        return None if number is None else make(number)

    return made


@dataclass(frozen=True)
class Making:
    """``make`` gives an answer from a gold one, or None; whether that is right, and ``because`` of what."""

    make: Callable[[str], str | None]
    right: bool
    because: str


ANOTHER = "another problem's answer"
MADE: Mapping[str, Making] = {
    "as it is": Making(lambda gold: gold, True, "the gold answer"),
    "display fractions": Making(lambda gold: _changed(gold, "\\frac", "\\dfrac"), True, "only set larger"),
    "display style": Making(lambda gold: f"\\displaystyle {gold}", True, "only set larger"),
    "stretched brackets": Making(_stretched, True, "only set larger"),
    "brackets not stretched": Making(_not_stretched, True, "only set smaller"),
    "thin spaces": Making(lambda gold: _changed(gold, "+", "\\,+\\,"), True, "only set wider"),
    "slashed fraction": Making(_slashed, True, "the same number"),
    "with a decimal": Making(_whole_with(lambda n: f"{n}.0"), True, "the same number"),
    "list reversed": Making(_reversed, True, "the same solutions, which have no order"),
    "one more": Making(_whole_with(lambda n: str(n + 1)), False, "another number"),
    "other sign": Making(_whole_with(lambda n: str(-n) if n else "1"), False, "another number"),
    "turned upside down": Making(_turned, False, "another number"),
    ANOTHER: Making(lambda gold: None, False, "not the answer to this problem"),
}


async def judged(outputs: Sequence[Output], workers: int) -> list[dict[str, bool | None]]:
    """Each grader's verdict on each output; None where it gave none."""
    from rewards import Sample
    from rewards.math_answer import MathReward
    from rewards.workers import WorkerLimits, Workers

    limits = WorkerLimits(wall_s=LIMIT_S, cpu_s=LIMIT_S, memory_mb=2048)
    ours, pool = MathReward(workers), Workers("jobs.bench.graders:theirs", workers, limits)
    try:
        scores = await ours([Sample({"answer": output.gold}, output.response) for output in outputs])
        asked = (pool.ask(o.task, o.gold, o.solution, o.response) for o in outputs)
        answers = await asyncio.gather(*asked)
    finally:
        await ours.close()
        await asyncio.to_thread(pool.close)
    found = []
    for score, answer in zip(scores, answers, strict=True):
        lm_eval, math_verify = answer.result if answer.status == "ok" else (None, None)
        own = None if score.value is None else score.value == 1.0
        found.append({"zeroth": own, "lm-eval": lm_eval, "Math-Verify": math_verify})
    return found


def theirs(task: str, gold: str, solution: str, response: str) -> tuple[bool, bool]:
    """The worker's side: lm-eval's verdict, and Math-Verify's."""
    from jobs.bench.math import theirs as math_verify

    score = {"gsm8k": lm_eval_gsm8k, "math500": lm_eval_math}[task]
    return score(solution, response), math_verify(f"\\boxed{{{gold}}}", response)


def lm_eval_math(solution: str, response: str) -> bool:
    """exact_match of minerva_math500."""
    from lm_eval.tasks.minerva_math import utils

    reference = utils.normalize_final_answer(utils.remove_boxed(utils.last_boxed_only_string(solution)))
    answer = utils.normalize_final_answer(utils.get_unnormalized_answer(response))
    return bool(utils.is_equiv(answer, reference))


def lm_eval_gsm8k(solution: str, response: str) -> bool:
    """flexible-extract of gsm8k_cot_zeroshot."""
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters.extraction import RegexFilter

    (settings,) = _task("gsm8k")["metric_list"]
    (flexible,) = [each for each in _task("gsm8k")["filter_list"] if each["name"] == "flexible-extract"]
    regex = flexible["filter"][0]
    extract = RegexFilter(regex["regex_pattern"], regex["group_select"])
    ((answer,),) = extract.apply([[response]], [{}])
    given = {key: settings[key] for key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
    return bool(exact_match_fn(predictions=[answer], references=[solution], **given)["exact_match"])


@cache
def _task(name: str) -> dict[str, Any]:
    import lm_eval
    import yaml  # type: ignore[import-untyped]

    path = Path(lm_eval.__file__).parent / "tasks" / name / f"{name}-cot-zeroshot.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def warm_up() -> None:
    """Imports what the worker's side needs, before workers are forked."""
    import lm_eval.filters.extraction
    import lm_eval.tasks.minerva_math.utils  # noqa: F401

    from jobs.bench import math

    math.warm_up()
    _task("gsm8k")


def compared(outputs: Sequence[Output], verdicts: Sequence[Mapping[str, bool | None]]) -> dict[str, Any]:
    """By kind of output how many each grader judges as they are, and every output on which graders differ, or which
    all of them judge wrongly."""
    kinds: dict[str, dict[str, Any]] = {}
    listed = []
    for output, verdict in zip(outputs, verdicts, strict=True):
        name = f"{output.task}: {output.kind} ({'right' if output.right else 'wrong'})"
        row = kinds.setdefault(name, {"count": 0, "agree_with_truth": dict.fromkeys(GRADERS, 0), "disagreements": 0})
        row["count"] += 1
        for grader in GRADERS:
            row["agree_with_truth"][grader] += verdict[grader] is output.right
        row["disagreements"] += len(set(verdict.values())) > 1
        if set(verdict.values()) != {output.right}:
            shown = {key: value for key, value in asdict(output).items() if key not in ("solution", "response")}
            listed.append({**shown, "verdicts": dict(verdict)})
    return {"outputs": kinds, "disagreements": listed}
