"""What `zeroth bench graders` asks, and how it counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.bench import graders
from jobs.bench.graders import MADE, Output, compared
from jobs.evaluation.suites import rows

ROOT = Path(__file__).resolve().parents[2]


def made(gold: str) -> dict[str, str]:
    return {kind: answer for kind, making in MADE.items() if (answer := making.make(gold)) is not None}


def test_what_is_made_from_a_fraction() -> None:
    assert made(r"-\frac{3}{4}") == {
        "as it is": r"-\frac{3}{4}", "display fractions": r"-\dfrac{3}{4}",
        "display style": r"\displaystyle -\frac{3}{4}",
        "slashed fraction": "-3/4", "turned upside down": r"-\frac{4}{3}",
    }  # fmt: skip


def test_what_is_not_the_same_number_is_not_made() -> None:
    assert "slashed fraction" not in made(r"1\frac{4}{5}")
    assert "list reversed" not in made("(1,2)")
    assert "list reversed" not in made("1,000")
    assert made("0")["other sign"] == "1"
    assert "turned upside down" not in made(r"\frac{2}{2}")


def output(right: bool = True) -> Output:
    return Output("math500", "as it is", "p", "1", "", "1", "", right, "the gold answer")


def test_disagreements_are_counted_and_what_all_judge_wrongly_is_listed() -> None:
    verdicts = [
        {"zeroth": True, "lm-eval": True, "Math-Verify": True},
        {"zeroth": True, "lm-eval": False, "Math-Verify": None},
        {"zeroth": False, "lm-eval": False, "Math-Verify": False},
    ]
    found = compared([replace(output(), problem=str(i)) for i in range(3)], verdicts)
    (row,) = found["outputs"].values()
    assert row == {"count": 3, "agree_with_truth": {"zeroth": 2, "lm-eval": 1, "Math-Verify": 1}, "disagreements": 1}
    assert [each["problem"] for each in found["disagreements"]] == ["1", "2"]


def test_the_models_outputs_are_scored_as_their_data_set_labels_them(data: Path) -> None:
    outputs = list(graders.gsm8k(data))
    assert len(outputs) == len({(each.problem, each.response) for each in outputs})
    assert sum(each.right for each in outputs) == len(
        {(row["prompt"], row["chosen"]) for row in rows(data / "preferences" / "gsm8k_test_solution_pairs.jsonl.gz")}
    )
    assert "\\boxed{" in outputs[0].response


def test_the_page_has_the_recorded_figures() -> None:
    run: dict[str, Any] = json.loads((ROOT / "docs" / "results" / "graders-2cores.json").read_text())
    page = (ROOT / "docs" / "evaluation.md").read_text()
    for name, row in run["outputs"].items():
        cells = " | ".join(str(row["agree_with_truth"][grader]) for grader in graders.GRADERS)
        assert f"| {name} | {row['count']} | {cells} | {row['disagreements']} |" in page
    assert f"{sum(row['disagreements'] for row in run['outputs'].values())} disagreements" in page


@pytest.mark.parametrize(
    ("text", "right"),
    [("so 5.\nA: \\boxed{18}", True), ("A: \\boxed{17}", False), ("$\\boxed{18}$. I hope it is correct.", False)],
)
def test_the_harness_own_scoring_of_gsm8k(text: str, right: bool) -> None:
    pytest.importorskip("lm_eval")
    assert graders.lm_eval_gsm8k("9*2=18\n#### 18", text) is right
