"""What the GPU benchmarks compute on any machine; the measurements themselves need a GPU."""

from __future__ import annotations

import pytest
import torch

from jobs.bench import precision
from tests.fakes import TINY
from tests.jobs.conftest import Zeroth, assert_refused


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


@pytest.mark.parametrize("more", [1, 3])
def test_gpus_that_are_not_there_are_missed_before_anything_is_built(zeroth: Zeroth, more: int) -> None:
    wanted = torch.cuda.device_count() + more
    assert_refused(zeroth("bench", "step", "--gpu", "--trainers", wanted), f"{wanted} CUDA devices are wanted")


@pytest.mark.parametrize("option", ["--trainers", "--sequences"])
def test_what_a_step_on_a_gpu_takes_is_not_passed_over_without_one(zeroth: Zeroth, option: str) -> None:
    assert_refused(zeroth("bench", "step", option, 2), "give --gpu as well")
