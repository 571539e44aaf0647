"""Loops of training beside torch's operators in FP64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from model import compiled_training
from model.loops import threads as threads_module
from tests.model.loops import torch_threads

Call = Callable[..., tuple[Tensor, ...]]
EPS = 1e-6


def check(ours: Call, theirs: Call, inputs: list[Tensor]) -> None:
    """Outputs and gradients, of each output alone and of all together."""
    single, double = [x.clone().requires_grad_() for x in inputs], [x.double().requires_grad_() for x in inputs]
    found, expected = ours(*single), theirs(*double)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-5, atol=1e-5)
    weights = [torch.randn_like(x) for x in found]
    for chosen in [*([i] for i in range(len(found))), range(len(found))]:
        got, exact = (
            torch.autograd.grad(
                [outs[i] for i in chosen], given, [weights[i].to(outs[i].dtype) for i in chosen],
                retain_graph=True, materialize_grads=True,
            )
            for outs, given in ((found, single), (expected, double))
        )  # fmt: skip
        for a, b in zip(got, exact, strict=True):
            torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-4)


def summed(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    *parts, weight = tensors
    total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return total * 1, F.rms_norm(total, weight.shape, weight, EPS)


def summed_by_loops(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    *parts, weight = tensors
    return compiled_training.add_norm(parts[0], parts[1] if len(parts) > 1 else None, weight, EPS)


@pytest.mark.parametrize("parts", [1, 2])
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 200), st.integers(1, 150))
def test_a_sum_and_its_norm_are_torch_s(parts: int, rows: int, width: int) -> None:
    torch.manual_seed(rows * width)
    inputs = [*(torch.randn(rows, width) for _ in range(parts)), 1 + 0.1 * torch.randn(width)]
    check(summed_by_loops, summed, inputs)


def test_a_norm_takes_any_number_of_dimensions() -> None:
    x, weight = torch.randn(3, 5, 16), torch.randn(16)
    _, normed = compiled_training.add_norm(x, x, weight, EPS)
    torch.testing.assert_close(normed, F.rms_norm(2 * x, (16,), weight, EPS))


def gated(gate: Tensor, up: Tensor, *gates: Tensor) -> tuple[Tensor]:
    return (F.silu(gate) * up * (gates[0] if gates else 1),)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("joined", [False, True])
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 90), st.integers(1, 150), st.sampled_from([0.1, 1.0, 30.0]))
def test_swiglu_is_torch_s(joined: bool, weighted: bool, rows: int, width: int, size: float) -> None:
    torch.manual_seed(rows * width)
    halves = [size * torch.randn(rows, width), torch.randn(rows, width)]
    gates = [torch.rand(rows, 1)] if weighted else []

    def by_loops(*tensors: Tensor) -> tuple[Tensor]:
        given = tensors[2] if weighted else None
        if joined:
            return (compiled_training.swiglu(torch.cat(tensors[:2], 1), None, given),)
        return (compiled_training.swiglu(tensors[0], tensors[1], given),)

    check(by_loops, gated, halves + gates)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "WORTH", 1)
    x, more, weight, gates = torch.randn(333, 48), torch.randn(333, 48), torch.randn(48), torch.rand(333, 1)

    def computed() -> list[Tensor]:
        given = [t.clone().requires_grad_() for t in (x, more, weight, gates)]
        total, normed = compiled_training.add_norm(given[0], given[1], given[2], EPS)
        out = compiled_training.swiglu(normed, None, given[3])
        return [total, normed, out, *torch.autograd.grad(out.sum() + total.sum(), given)]

    found = []
    for count in (1, threads):
        with torch_threads(count):
            found.append(computed())
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
