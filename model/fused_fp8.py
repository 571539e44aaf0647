"""FP8 training on Hopper (DeepSeek-V3 report, section 3.3): every product of a linear layer, forward, Dgrad and Wgrad,
multiplies FP8 tiles; weights and their gradients are FP32. `model.fp8.Product` is the reference.

An input or gradient is read once and quantised in both directions: in tiles along its rows for this pass, and along
the tokens, transposed, for the weights' gradient. Rows go to their experts in the same pass. Weights are quantised when
they have changed, both ways up, and kept: once an optimizer step, however many micro-batches it has.
"""

# torch leaves the context of autograd functions untyped.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from model.fp8 import BLOCK, Quantized
from model.kernels import products
from model.kernels.quantize import quantize_blocks, quantize_both, quantize_tiles, swiglu_backward, swiglu_quantize
from model.kernels.rows import Places, unpermute
from model.linear import GroupedLinear, Linear


class Weights(NamedTuple):
    """``rows`` [E, N, K] as Fprop multiplies it and ``turned`` [E, K, N] as Dgrad does."""

    rows: Quantized
    turned: Quantized


def serves(*layers: GroupedLinear) -> bool:
    """Whether these layers' products run here: in FP8, on Hopper, in whole blocks but for the last output."""
    return all(layer.fp8 for layer in layers) and _hopper(layers[0].weight.device) and _whole(layers)


def linear(x: Tensor, *layers: Linear) -> tuple[Tensor, ...]:
    """The layers' outputs for one input x [..., K], in one product."""
    flat = x.reshape(-1, x.shape[-1])
    weights = [layer.weight for layer in layers]
    out = _Linear.apply(flat, *weights) if torch.is_grad_enabled() else _multiply(flat, _quantized(*weights))
    return tuple(part.reshape(*x.shape[:-1], -1) for part in out.split([len(w) for w in weights], -1))


def gated_mlp(
    x: Tensor, gate_up: Sequence[GroupedLinear], down: GroupedLinear, gates: Tensor | None = None,
    places: Places | None = None,
) -> Tensor:  # fmt: skip
    """SwiGLU of x [..., H]; with ``gates`` [T, K] and ``places``, the gated sum over each token's experts."""
    flat = x.reshape(-1, x.shape[-1])
    weights = [layer.weight for layer in (*gate_up, down)]
    out: Tensor = _GatedMLP.apply(flat, gates, places, *weights)
    return out.view_as(x)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.w, ctx.sizes = _quantized(*parameters), [len(p) for p in parameters]
        x_rows, x_columns = quantize_both(x)
        ctx.save_for_backward(*x_columns)
        return products.matmul(x_rows, ctx.w.rows)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, ...]:
        dy_rows, dy_columns = quantize_both(dy)
        dw = products.wgrad(dy_columns, Quantized(*ctx.saved_tensors))
        return products.matmul(dy_rows, ctx.w.turned), *dw.split(ctx.sizes)


class _GatedMLP(torch.autograd.Function):
    """Keeps the transposed tiles of its input and, in BF16, gate and up; their product is made again in the backward
    pass."""

    @staticmethod
    def forward(ctx, x: Tensor, gates: Tensor | None, places: Places | None, *parameters: Tensor) -> Tensor:
        ctx.up, ctx.down = _quantized(*parameters[:-1]), _quantized(parameters[-1])
        ctx.places, ctx.sizes = places, [len(p) for p in parameters[:-1]]
        x_rows, x_columns = quantize_both(x, places)
        gate_up = _matmul(x_rows, ctx.up.rows, places)
        hidden, _ = swiglu_quantize(gate_up, gates, places)
        ctx.save_for_backward(*x_columns, gate_up, gates)
        out = _matmul(hidden, ctx.down.rows, places)
        return out if places is None else unpermute(out, places.place)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Any, ...]:
        *x_columns, gate_up, gates = ctx.saved_tensors
        places: Places | None = ctx.places
        dy_rows, dy_columns = quantize_both(dy, places)
        grads = swiglu_backward(gate_up, _matmul(dy_rows, ctx.down.turned, places), gates, places)
        d_down = _wgrad(dy_columns, grads.hidden_columns, places)
        d_up = _wgrad(grads.d_columns, Quantized(*x_columns), places)
        dx = _matmul(grads.d_rows, ctx.up.turned, places)
        if places is None:
            return dx, None, None, *d_up.split(ctx.sizes), d_down
        assert grads.d_gates is not None
        return unpermute(dx, places.place), grads.d_gates[places.place], None, d_up, d_down


def _matmul(x: Quantized, w: Quantized, places: Places | None) -> Tensor:
    return products.matmul(x, w) if places is None else products.grouped_matmul(x, w, places.ends)


def _wgrad(dy: Quantized, x: Quantized, places: Places | None) -> Tensor:
    return products.wgrad(dy, x) if places is None else products.grouped_wgrad(dy, x, places.ends)


def _multiply(x: Tensor, w: Weights) -> Tensor:
    return products.matmul(quantize_tiles(x), w.rows)


_kept: Any = WeakTensorKeyDictionary()


def _quantized(*parameters: Tensor) -> Weights:
    """The weights, one under another, in FP8: as kept, unless one of them was written or replaced since."""
    state = tuple((p.data_ptr(), p._version) for p in parameters)
    found = _kept.get(parameters[0])
    if found is None or found[0] != state:
        stacked = torch.cat([p.detach() for p in parameters]) if len(parameters) > 1 else parameters[0].detach()
        whole = stacked if stacked.dim() == 3 else stacked.unsqueeze(0)
        rows, turned = quantize_blocks(whole, transpose=True)
        assert turned is not None
        found = (state, Weights(rows, turned))
        _kept[parameters[0]] = found
    weights: Weights = found[1]
    return weights


def _whole(layers: Sequence[GroupedLinear]) -> bool:
    *outputs, last = [layer.weight.shape[-2] for layer in layers]
    return last % 16 == 0 and not any(size % BLOCK for size in (*outputs, *(w.weight.shape[-1] for w in layers)))


def _hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
