"""The figures in docs/rewards.md are those of a committed run."""

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "rewards.md").read_text()


def figures(results):
    """The page's table, as a run's JSON says it."""
    lines = [
        "| grader | pairs/s | ms, median | ms, 99 % | accuracy | true positives | false positives |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in results["graders"].items():
        timed = f"{row['pairs_per_second']:.0f} | {row['p50_ms']:.2f} | {row['p99_ms']:.0f}"
        right = " | ".join(f"{row[key]:.3f}" for key in ("accuracy", "true_positives", "false_positives"))
        lines.append(f"| {name} | {timed} | {right} |")
    machine = results["machine"]
    lines.append("")
    lines.append(
        f"`{results['command']}`, {results['pairs']} pairs, {results['workers']} workers each, {machine['cpu']}, "
        f"{machine['cores']} cores, load {machine['load_before']} before the run, Python {machine['python']}, "
        f"Math-Verify {results['versions']['math-verify']}, commit {results['commit']}: "
        f"{results['times_faster']:.0f} times Math-Verify's throughput."
    )
    return "\n".join(lines)


def test_the_pages_figures_are_the_runs():
    name, shown = re.search(r"<!-- figures: docs/(\S+) -->\n(.*?)\n<!-- end of figures -->", PAGE, re.DOTALL).groups()
    assert shown == figures(json.loads((DOCS / name).read_text()))


def test_every_name_of_the_table_is_documented():
    from rewards.table import DIALECTS, TABLE

    assert all(f"`{name}`" in PAGE for name in TABLE)
    assert all(f"`{name}:`" in PAGE for name in DIALECTS)
