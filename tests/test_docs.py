"""The figures in the pages are those of the recorded runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.bench.publish import cells

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


def publish_rows() -> list[str]:
    """A publish of each kind, then many in a row: memory and files of all processes after a tenth and at the end."""
    rows = [
        f"| {name} | {' | '.join(cells(row))} |"
        for run in recorded("publish-*.json")
        for name, row in run["ways"].items()
    ]
    for soak in recorded("publishes-*.json"):
        memory, files = (
            [sum(usage[name][key] for name in ("driver", "trainer", "engine")) for usage in soak["usage"]]
            for key in ("rss_mb", "files")
        )
        times = " | ".join(f"{soak[key]:.2f}" for key in ("seconds_median", "seconds_p99", "seconds_max"))
        held = f"{memory[0]:,.0f} → {memory[-1]:,.0f} | {files[0]} → {files[-1]}"
        rows.append(f"| {soak['engine']} | {soak['publishes']:,} | {times} | {held} |")
    return rows


def balance_rows() -> list[str]:
    (run,) = recorded("balance-*.json")
    columns = ("loss", "below_sequence_wise", "max_violation", "max_violation_batch")
    rows = []
    for way, row in run["ways"].items():
        cells = [f"{row[name]['mean']:.3f} ± {row[name]['error']:.3f}" for name in columns]
        rows.append(f"| {way} | {' | '.join(cells)} |")
    return rows


def placement_row() -> str:
    (run,) = recorded("placement-*.json")
    ways = run["placement"]["busiest_over_mean"]
    return f"| {ways['in_order']:.2f} | {ways['planned']:.2f} | {ways['in_hindsight']:.2f} |"


def test_the_planning_page_has_the_ways_to_balance_and_the_placement() -> None:
    text = (ROOT / "docs" / "planning.md").read_text()
    for row in (*balance_rows(), placement_row()):
        assert row in text


def interval(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def chain_rows() -> list[str]:
    rows = []
    for run in recorded("chain-*.json"):
        for name, suites in run["checkpoints"].items():
            cells = [interval(row["mean"]) for suite in suites.values() for row in suite.values()]
            rows.append(f"| {run['seed']} | {name} | {' | '.join(cells)} |")
        pairs = run["reward_model"]["pairs"]
        low, high = pairs["interval"]
        rows.append(f"{pairs['accuracy']:.1%} of {pairs['count']} held-out pairs ({low:.1%} to {high:.1%})")
        rows.append(f"{run['seconds']['all'] / 60:.1f} minutes")
    return rows


def pair_rows() -> list[str]:
    rows = []
    for run in recorded("reward-*.json"):
        wilson, problems = (
            f"{low:.1%} to {high:.1%}" for low, high in (run["interval_wilson"], run["interval_by_problem"])
        )
        rows.append(
            f"| {run['pairs'].removesuffix('.jsonl.gz')} | {run['held_out_pairs']} of {run['problems']} problems "
            f"| {run['accuracy']:.1%} | {wilson} | {problems} | {run['accuracy_of_length']:.1%} |"
        )
    return rows


def cap_rows() -> list[str]:
    """By run and seed: the share at the cap and the reward model's score over the last ten steps, the hidden rule at
    the start, at its best and at the end. And of the runs without a KL the rule at its best and at the end."""
    rows = []
    (result,) = recorded("cap-2cores.json")
    for name, seeds in result["summary"].items():
        for seed, row in enumerate(seeds):
            figures = " | ".join(f"{row[cell]:.2f}" for cell in ("score", "start", "best", "end"))
            rows.append(f"| {name} | {seed} | {row['capped']:.0%} | {figures} |")
    for name, (seed,) in {
        n: seeds for each in recorded("cap-alone-*.json") for n, seeds in each["summary"].items()
    }.items():
        rows.append(f"| {name} | {seed['best']:.2f} | {seed['end']:.2f} |")
    return rows


def test_the_cap_stops_what_goes_on_without_it() -> None:
    """What the page says of every seed, of an earlier chain and of today's."""
    (earlier,), (today,) = recorded("earlier-cap-2cores.json"), recorded("cap-2cores.json")
    for with_cap, without in seeds_of(earlier):
        assert with_cap["end"] > max(with_cap["start"] + 0.1, with_cap["best"] - 0.15)
        assert without["end"] < without["start"] - 0.4
    for with_cap, without in seeds_of(today):
        assert 0.08 <= round(with_cap["best"] - with_cap["end"], 2) <= 0.16
        assert with_cap["end"] > with_cap["start"] + 0.2
        assert without["end"] < without["start"] - 0.4


def seeds_of(result: dict[str, Any]) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    """Each seed's run with a cap, and the one without."""
    free, capped = result["summary"].values()
    yield from zip(capped, free, strict=True)


def test_the_reward_models_page_has_its_runs() -> None:
    text = (ROOT / "docs" / "reward-models.md").read_text()
    for row in [*chain_rows(), *pair_rows(), *cap_rows()]:
        assert row in text


def test_the_readme_has_the_quickstart_runs() -> None:
    text = (ROOT / "README.md").read_text()
    for row in quickstart_rows():
        assert row in text


def test_the_benchmarks_page_has_the_steps() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for row in step_rows():
        assert row in text


def test_the_benchmarks_page_has_the_publishes() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for row in publish_rows():
        assert row in text
    for soak in recorded("publishes-*.json"):
        assert soak["samples_that_differ_under_equal_weights"] == 0
        assert not soak["tensors_that_differ_at_the_end"]
        assert soak["logprob_drift_under_equal_weights"] < (1e-6 if soak["engine"] == "vllm" else 1e-12)


Loads = dict[str, dict[str, float]]


def rollouts() -> tuple[dict[str, Any], dict[str, Loads]]:
    """A run, and vLLM's loads in it by precision."""
    (run,) = recorded("rollout-*.json")
    return run, {name: engine["loads"] for name, engine in run["engines"].items() if name.startswith("vLLM")}


def test_the_benchmarks_page_has_the_rollouts() -> None:
    text = " ".join((ROOT / "docs" / "benchmarks.md").read_text().split())
    run, vllm = rollouts()
    for name, loads in {**vllm, **{n: e["loads"] for n, e in run["engines"].items() if "trainer" in e}}.items():
        for load, found in loads.items():
            speed, first = found["tokens_per_second"], f"{found['first_token_s'] * 1e3:.0f}"
            times = share = ""
            if name not in vllm:
                best = max(theirs[load]["tokens_per_second"] for theirs in vllm.values() if load in theirs)
                limit = run["limits_tokens_per_second"][load][name.removeprefix("native, ")]
                times, share = f"{speed / best:.2f}", f"{speed / limit:.0%}"
            cells = [name, load, f"{speed:,.0f}", times, first, share]
            assert " ".join(" | ".join(["", *cells, ""]).split()) in text
    proofs = [engine["trainer"] for engine in run["engines"].values() if "trainer" in engine]
    assert [(proof["tokens"], proof["max_gap"]) for proof in proofs] == [(262144, 0.0)] * 2


def test_the_benchmarks_page_has_what_drafts_gave() -> None:
    text = " ".join((ROOT / "docs" / "benchmarks.md").read_text().split())
    for drafts in recorded("drafts-*.json"):
        plain, guessed = (next(iter(engine["loads"].values())) for engine in drafts["engines"].values())
        for words in (
            f"{guessed['accepted']:.0%} of the guesses were right, {guessed['tokens_per_step']:.2f} tokens a step",
            f"{guessed['tokens_per_second']:,.0f} tokens/s with drafts and {plain['tokens_per_second']:,.0f} without",
        ):
            assert words in text


def test_the_readme_has_the_speeds_on_a_gpu() -> None:
    text = (ROOT / "README.md").read_text()
    (steps,), (run, vllm) = recorded("training-*.json"), rollouts()
    load = run["loads"][0]
    native = [engine["loads"][load] for engine in run["engines"].values() if "trainer" in engine]
    best = max(loads[load]["tokens_per_second"] for loads in vllm.values())
    for speed in (
        best,
        *(row["tokens_per_s"] for row in steps["steps"].values()),
        *(found["tokens_per_second"] for found in native),
    ):
        assert f"{speed:,.0f}" in text
    for found in native:
        assert f"{found['tokens_per_second'] / best:.2f} times" in text


def test_the_benchmarks_page_has_grpo_on_a_gpu() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    (quickstart,) = recorded("gpu-quickstart-*.json")
    for when, name in enumerate(("before", "after 100 steps")):
        figures = (f"{quickstart['accuracy'][kind][when]:.1%}" for kind in sorted(quickstart["accuracy"]))
        assert f"| {name} | {' | '.join(figures)} |" in text
    (run,) = recorded("grpo-*.json")
    for name, row in run["runs"].items():
        for step, found in row["accuracy"].items():
            assert f"| {name} | {step} | {' | '.join(f'{found[key]:.1%}' for key in sorted(found))} |" in text
        for figure in (row["seconds_a_step_median"], row["gap_max"]):
            assert f"{figure:.2f}" in text


def test_every_result_is_quoted_on_a_page() -> None:
    text = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for path in RESULTS.glob("*.json"):
        assert f"results/{path.name}" in text or path.name.startswith("quickstart-"), path.name


def test_the_kernels_page_has_the_training_steps_and_losses() -> None:
    text = (ROOT / "docs" / "kernels.md").read_text()
    (run,), (losses,) = recorded("training-*.json"), recorded("precision-*.json")
    for name, row in run["steps"].items():
        cells = f"{row['tokens_per_s']:,.0f} | {row['utilisation']:.1%} | {row['peak_gib']:.1f} | {row['ratio']:.2f}"
        assert f"| {name} | {cells} |" in text
    (shared,) = recorded("trainers-*.json")
    for name, row in shared["steps"].items():
        cells = f"{row['tokens_per_s']:,.0f} | {1e3 * row['step_seconds']:.0f} | {row['efficiency']:.0%}"
        assert f"| {name} | {cells} |" in text
    quoted = [w for w in losses["windows"] if f"| {w['steps']} |" in text]
    assert len(quoted) == 5
    for w in quoted:
        assert f"| {w['steps']} | {w['bf16']:.4f} | {w['fp8']:.4f} | {w['relative']:+.3%} |" in text
    assert max(abs(w["relative"]) for w in losses["windows"]) < 0.0025


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_a_result_says_where_and_how_it_was_measured(path: Path) -> None:
    run = json.loads(path.read_text())
    assert {"command", "commit", "machine", "versions"} <= set(run)


if __name__ == "__main__":
    rows = (quickstart_rows, step_rows, chain_rows, pair_rows, cap_rows, balance_rows, publish_rows)
    print("\n\n".join("\n".join(make()) for make in rows))
