"""Which tensors leave the references, without a GPU to send them to."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from model import dispatch


class OnGPU(torch.Tensor):
    """Says that it is on a CUDA device."""

    is_cuda = True  # type: ignore[assignment]


def on_gpu(dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(2, dtype=dtype).as_subclass(OnGPU)


@dispatch.on_gpu("twice")
def twice(x: torch.Tensor) -> str:
    return "reference"


@pytest.mark.parametrize(("answer", "expected"), [("fused", "fused"), (NotImplemented, "reference")])
def test_bf16_on_a_gpu_goes_to_the_fused_operator_unless_it_declines(
    monkeypatch: pytest.MonkeyPatch, answer: object, expected: str
) -> None:
    fused = types.ModuleType("model.fused")
    fused.twice = lambda x: answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "model.fused", fused)
    monkeypatch.setattr("model.fused", fused, raising=False)
    monkeypatch.setattr(dispatch, "has_triton", lambda: True)
    assert twice(on_gpu(torch.bfloat16)) == expected
    assert twice(on_gpu(torch.float32)) == "reference"
    assert twice(torch.zeros(2, dtype=torch.bfloat16)) == "reference"


def test_without_triton_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "has_triton", lambda: False)
    assert twice(on_gpu(torch.bfloat16)) == "reference"
