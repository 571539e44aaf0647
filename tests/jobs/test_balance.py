from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.bench import balance
from jobs.cli import main


def test_the_ways_are_compared_seed_by_seed_on_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"HELD_OUT": 8, "BATCH": 4, "ProcessPoolExecutor": lambda *_: ThreadPoolExecutor(1)}.items():
        monkeypatch.setattr(balance, name, value)
    words = [f"word{i} " for i in range(300)]
    lines = [json.dumps({"text": "".join(random.Random(i).choices(words, k=600))}) for i in range(8)]
    (tmp_path / "documents.jsonl").write_text("\n".join(lines))
    with pytest.raises(SystemExit) as done:
        main(
            [
                "bench",
                "balance",
                "--documents",
                str(tmp_path / "documents.jsonl"),
                "--seeds",
                "2",
                "--steps",
                "2",
                "--json",
            ]
        )
    assert not done.value.code
    result = json.loads(capsys.readouterr().out)
    losses = {way: [run["loss"] for run in runs] for way, runs in result["runs"].items()}
    assert set(losses) == {"loss-free", "loss-free, slow", "sequence-wise", "batch-wise"}
    for seed in range(2):
        seen = [losses[way][seed] for way in losses]
        assert max(seen) - min(seen) < 0.01, "two steps from the same weights differ by what balances alone"
        assert len(set(seen)) == 4
    below = [s - f for s, f in zip(losses["sequence-wise"], losses["loss-free"], strict=True)]
    assert result["ways"]["loss-free"]["below_sequence_wise"]["mean"] == pytest.approx(sum(below) / 2)
    assert result["ways"]["sequence-wise"]["below_sequence_wise"] == {"mean": 0.0, "error": 0.0}


def test_too_little_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "documents.jsonl").write_text(json.dumps({"text": "short"}))
    with pytest.raises(SystemExit) as done:
        main(["bench", "balance", "--documents", str(tmp_path / "documents.jsonl")])
    assert done.value.code == 2
    assert "too few" in capsys.readouterr().err
