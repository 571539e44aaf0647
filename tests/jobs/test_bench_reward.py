from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import config
from jobs.bench import cap, reward
from jobs.config import GrpoRecipe


def line(prompt: str, chosen: str = "aa", rejected: str = "b") -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_a_problem_is_held_out_whole() -> None:
    lines = [line(f"p{i}", chosen=str(copy)) for i in range(40) for copy in range(3)]
    folds = {
        each["prompt"]: {reward.fold_of(other, 5) for other in lines if other["prompt"] == each["prompt"]}
        for each in lines
    }
    assert {len(each) for each in folds.values()} == {1}
    assert set().union(*folds.values()) == {0, 1, 2, 3, 4}


def test_the_figures_of_known_scores() -> None:
    judged = [(line("p"), 1.0, 0.0), (line("p"), 1.0, 1.0), (line("q", "a", "bb"), 0.0, 1.0), (line("r"), 2.0, 1.0)]
    found = reward.figures(judged)
    assert (found["problems"], found["held_out_pairs"]) == (3, 4)
    assert found["accuracy"] == pytest.approx(2.5 / 4)
    assert found["accuracy_of_length"] == 0.75
    low, high = found["interval_by_problem"]
    assert 0 <= low < found["accuracy"] < high <= 1


def test_the_runs_differ_in_the_cap_alone(tmp_path: Path) -> None:
    text = config.find("chain").read_text().replace("runs/chain", str(tmp_path))
    (tmp_path / "chain.toml").write_text(text)
    free, capped = (cap.recipe_of(tmp_path, 10, quantile, 0.1, 1e-3, 4) for quantile in (0.0, 0.3))
    assert (free.loss.kl, free.run.seed) == (0.1, 4)
    assert free.loss.reference_every >= free.train.steps, "the KL is to the checkpoint that both start from"
    assert not free.reward.added
    settings = capped.reward.settings["learned"]
    assert settings["cap_quantile"] == 0.3

    def rest(recipe: GrpoRecipe) -> dict[str, object]:
        values = recipe.model_dump()
        return {name: values[name] for name in values if name not in ("reward", "run")}

    assert rest(free) == rest(capped)
    assert free.run.dir != capped.run.dir


def test_curves_their_summary_and_their_picture(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    steps = [
        {"step": i, "reward/accuracy/raw": i / 2, "reward/accuracy/capped": 0.5, **({cap.GOLD: 2 - i} if i % 2 else {})}
        for i in range(1, 6)
    ]
    path.write_text("".join(json.dumps(step) + "\n" for step in steps))
    found = cap.curves(path)
    assert found["rule"] == ([1, 3, 5], [1, -1, -3])
    assert cap.summary(found) == {"start": 1, "best": 1, "end": -3, "score": 1.5, "capped": 0.5}
    cap.draw({"a": [found, found], "b": [found, found]}, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
