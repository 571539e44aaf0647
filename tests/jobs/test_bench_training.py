"""What the GPU benchmarks compute on any machine; the measurements themselves need a GPU."""

from __future__ import annotations

import pytest

from jobs.bench import precision, training
from model.config import ModelConfig
from model.transformer import build
from tests.fakes import TINY


def test_operations_are_six_a_weight_that_a_token_meets_and_attention_s() -> None:
    shape = ModelConfig(**{**training.LARGE, "num_hidden_layers": 2, "hidden_size": 128, "n_routed_experts": 16})
    work = training.Work(shape, sequences=1, tokens=16, steps=1)
    met = 0
    for name, p in build(shape, 0).named_parameters():
        if p.dim() == 1 or name.startswith("embed"):
            continue
        met += p.numel() * shape.num_experts_per_tok // shape.n_routed_experts if ".experts." in name else p.numel()
    attention = 2 * 16 * (192 + 128) * 16 / 2
    assert training.flops(work) == pytest.approx(6 * (met + attention) * 16)


def test_windows_compare_means() -> None:
    n = precision.WINDOW
    (first, second) = precision.windows([2.0] * 2 * n, [2.0] * n + [2.1] * n)
    assert (first["relative"], second["steps"]) == (0.0, f"{n + 1}-{2 * n}")
    assert second["relative"] == pytest.approx(0.05)


def test_both_precisions_see_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "WINDOW", 1)
    shape = {name: getattr(TINY, name) for name in ("hidden_size", "num_hidden_layers", "moe_intermediate_size")}
    found = precision.measure(["To be, or not to be. " * 40], 2, 2, 0, {**shape, "max_position_embeddings": 32})
    first, second = found["windows"]
    assert abs(first["relative"]) < 1e-2
    assert abs(second["relative"]) < 1e-2
    assert first["bf16"] != second["bf16"]
