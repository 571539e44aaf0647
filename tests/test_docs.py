"""The figures in the pages are those of the recorded runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def recorded(pattern: str) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))]
    assert found, f"docs/results holds no {pattern}"
    return found


def quickstart_rows() -> list[str]:
    rows = []
    for run in recorded("quickstart-*.json"):
        cells = [f"{before:.1%} → {after:.1%}" for _, (before, after) in sorted(run["accuracy"].items())]
        rl, everything = run["seconds"]["reinforcement learning"], run["seconds"]["all"]
        rows.append(f"| {run['seed']} | {' | '.join(cells)} | {rl:.0f} s of {everything:.0f} s |")
    return rows


def step_rows() -> list[str]:
    (run,) = recorded("step-*.json")
    return [f"| {name} | {row['seconds']:.3f} | {row['ratio']:.2f} |" for name, row in sorted(run["steps"].items())]


def test_the_readme_has_the_quickstart_runs() -> None:
    text = (ROOT / "README.md").read_text()
    for row in quickstart_rows():
        assert row in text


def test_the_benchmarks_page_has_the_steps() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for row in step_rows():
        assert row in text


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_a_result_says_where_and_how_it_was_measured(path: Path) -> None:
    run = json.loads(path.read_text())
    assert {"command", "commit", "machine", "versions"} <= set(run)


if __name__ == "__main__":
    print("\n".join([*quickstart_rows(), "", *step_rows()]))
