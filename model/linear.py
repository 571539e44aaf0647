"""Linear layers whose precision is a setting: fp32, bf16, or block FP8.

The weights are FP32 masters. In fp32 and bf16 a layer computes in the dtype of its input. In fp8 it quantises both
operands (`model/fp8.py`); an engine that was given FP8 weights sets ``rounded``, so that they are used as decoded and
not quantised again.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import fp8
from model.config import Precision
from model.dispatch import has_loops, on_gpu


def draw_(weight: Tensor, std: float) -> None:
    """Fills a weight from a normal distribution. One on the meta device has no values, and torch takes its time."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


class GroupedLinear(nn.Module):
    """One weight [E, N, K] for E experts; rows come sorted by expert. E = 1 is a plain linear layer."""

    def __init__(self, experts: int, in_features: int, out_features: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, out_features, in_features))
        self.std = std
        self.fp8 = False
        self.rounded = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        draw_(self.weight, self.std)

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """x [M, K] -> [M, N]; ``counts`` [E] sums to M."""
        return self.multiply(self.operand(x), counts)

    def operand(self, x: Tensor) -> Tensor:
        """x [..., K] as an engine multiplies it: rounded to FP8 tiles in fp8, once for all that multiply it."""
        return fp8.round_tiles(x) if self.fp8 and self.rounded else x

    def multiply(self, operand: Tensor, counts: list[int]) -> Tensor:
        return fp8.product(operand, self.weight.to(operand.dtype), counts, self.fp8 and not self.rounded)

    def multiplied(self, dtype: torch.dtype) -> Tensor:
        """The weight as it is multiplied in ``dtype``, which a fp8 layer has rounded its operand to beforehand."""
        return (fp8.round_blocks(self.weight) if self.fp8 and not self.rounded else self.weight).to(dtype)


class Linear(GroupedLinear):
    """A linear layer without bias. ``weight`` [N, K]."""

    def __init__(self, in_features: int, out_features: int, std: float) -> None:
        super().__init__(1, in_features, out_features, std)
        self.weight = nn.Parameter(self.weight.data[0])

    @on_gpu("linear")
    def forward(self, x: Tensor, counts: list[int] | None = None) -> Tensor:
        """x [..., K] -> [..., N]."""
        if self.rounded or not self.fp8:
            return F.linear(self.operand(x), self.weight.to(x.dtype))
        rows = x.reshape(-1, x.shape[-1])
        return fp8.product(rows, self.weight.to(x.dtype).unsqueeze(0), [len(rows)], True).view(*x.shape[:-1], -1)


@on_gpu("together")
def together(x: Tensor, *layers: Linear) -> tuple[Tensor, ...]:
    """The layers' outputs for one input x [..., K]; an engine in fp8 rounds it once."""
    if all(layer.fp8 and layer.rounded for layer in layers):
        return of_operand(fp8.round_tiles(x), *layers)
    return tuple(layer(x) for layer in layers)


def of_operand(operand: Tensor, *layers: Linear) -> tuple[Tensor, ...]:
    """`together` for what `GroupedLinear.operand` has rounded."""
    return tuple(F.linear(operand, layer.weight.to(operand.dtype)) for layer in layers)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return summed_norm(x, None, self)[1]


@functools.cache
def number(value: float) -> Tensor:
    """As a tensor, which of a plain number an operator makes each time."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")


@on_gpu("add_norm")
def add_norm(x: Tensor, more: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """The sum of ``x`` [..., H] and ``more``, which may be missing, and its norm."""
    return summed_norm(x, more, norm)


def summed_norm(x: Tensor, more: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """`add_norm` of x that may be part of a wider tensor, which kernels on a GPU do not take."""
    if has_loops(x):
        from model import compiled_training

        return compiled_training.add_norm(x, more, norm.weight, norm.eps)
    total = x if more is None else x + more
    return total, rms_norm(total, norm.weight.to(x.dtype), norm.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, eps)


def set_precision(module: nn.Module, precision: Precision) -> None:
    for layer in module.modules():
        if isinstance(layer, GroupedLinear):
            layer.fp8 = precision == "fp8"


def set_rounded(module: nn.Module, rounded: bool) -> None:
    """Says whether the weights already hold decoded FP8 values."""
    for layer in module.modules():
        if isinstance(layer, GroupedLinear):
            layer.rounded = rounded


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of everything that is not quantised. FP8 multiplies beside BF16 on a GPU; the CPU reference stays in
    FP32, where BF16 is slow on most machines."""
    if precision == "bf16" or (precision == "fp8" and device.type == "cuda"):
        return torch.bfloat16
    return torch.float32
