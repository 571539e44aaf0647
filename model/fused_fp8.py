"""FP8 training on Hopper (DeepSeek-V3 report, section 3.3): every product of a linear layer, forward, Dgrad and Wgrad,
multiplies FP8 tiles; weights and their gradients are FP32. `model.fp8.Product` is the reference.

An input or gradient is read once and quantised in both directions: in tiles along its rows for this pass, and along
the tokens, transposed, for the weights' gradient. Rows go to their experts in the same pass. Weights are quantised when
they have changed, both ways up, and kept: once an optimizer step, however many micro-batches it has.
"""

# torch leaves the context of autograd functions untyped.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model import derived, fused_attention
from model.config import ModelConfig
from model.fp8 import BLOCK, Quantized
from model.kernels import norms, products
from model.kernels.elementwise import rotate_tail_
from model.kernels.gradients import keys_backward, queries_backward
from model.kernels.quantize import (
    Weights,
    quantize_blocks,
    quantize_both,
    quantize_normed,
    quantize_placed,
    quantize_tiles,
    swiglu_backward,
    swiglu_quantize,
)
from model.kernels.rows import Places, unpermute
from model.linear import GroupedLinear, Linear
from model.segments import Segments

if TYPE_CHECKING:
    from model.attention import Attention
    from model.moe import MLP, Experts


def serves(*layers: GroupedLinear) -> bool:
    """Whether these layers' products run here: in FP8, on Hopper, in whole blocks but for the last output."""
    return all(layer.fp8 for layer in layers) and _hopper(layers[0].weight.device) and _whole(layers)


def as_rows(x: Tensor) -> Tensor:
    """x [..., K] as [N, K]; one that is so already stays out of autograd's graph."""
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


def product(x: Tensor, *layers: Linear) -> Tensor:
    """The layers' outputs for one input x [..., K], side by side."""
    flat = as_rows(x)
    weights = [layer.weight for layer in layers]
    out: Tensor = _Linear.apply(flat, *weights) if torch.is_grad_enabled() else _multiply(flat, _quantized(*weights))
    return out if x.dim() == 2 else out.view(*x.shape[:-1], -1)


def gated_mlp(x: Tensor, *layers: Linear) -> Tensor:
    """SwiGLU of x [..., H] by its gate, up and down projections."""
    out: Tensor = _GatedMLP.apply(as_rows(x), *(layer.weight for layer in layers))
    return out if x.dim() == 2 else out.view_as(x)


def experts(layer: Experts, shared: MLP | None, x: Tensor, gates: Tensor, places: Places) -> Tensor:
    """The sum, times ``gates`` [T, K], over each token's experts, and ``shared``, of x [T, H]."""
    weights = [layer.gate_up_proj.weight, layer.down_proj.weight]
    if shared is not None:
        weights += [part.weight for part in (shared.gate_proj, shared.up_proj, shared.down_proj)]
    out: Tensor = _Experts.apply(x, gates, places, *weights)
    return out


def serves_attention(layer: Attention) -> bool:
    """Whether `attention` does: every projection in FP8, on Hopper, in whole blocks."""
    c = layer.c
    sizes = (c.hidden_size, c.q_lora_rank or 1, c.kv_lora_rank, c.qk_nope_head_dim, c.v_head_dim)
    if c.qk_rope_head_dim % 16 or any(size % BLOCK for size in sizes):
        return False
    return all(projection.fp8 for projection in _projections(layer)) and _hopper(layer.o_proj.weight.device)


def attention(layer: Attention, x: Tensor, turns: Tensor, segments: Segments) -> Tensor:
    """`Attention.forward` of x [N, H], whose queries have latents, in one autograd function."""
    parts = layer.q_a_layernorm, layer.kv_a_layernorm, *_projections(layer)
    out: Tensor = _Attention.apply(x, turns, segments, layer.c, layer.scale, *(part.weight for part in parts))
    return out


def _projections(layer: Attention) -> tuple[Linear, ...]:
    return layer.q_a_proj, layer.kv_a_proj_with_mqa, layer.q_b_proj, layer.kv_b_proj, layer.o_proj


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, turns: Tensor, segments: Segments, c: ModelConfig, scale: float,
        q_norm: Tensor, norm: Tensor, *projections: Tensor,
    ) -> Tensor:  # fmt: skip
        q_a, kv_a, *others = projections
        ctx.weights = down, q_up, up, last = [_quantized(q_a, kv_a), *map(_quantized, others)]
        ctx.segments, ctx.c, ctx.scale, ctx.sizes = segments, c, scale, _heights(q_a, kv_a)
        x_rows, x_columns = quantize_both(x)
        joint = products.matmul(x_rows, down.rows)
        sizes = q_norm.shape[0], norm.shape[0]
        q_inverse, inverse, key = norms.latent_inverses(joint, turns, *sizes, c.rms_norm_eps)
        q_rows, q_columns = quantize_normed(joint[:, : sizes[0]], q_inverse, q_norm)
        rows, columns = quantize_normed(joint[:, sizes[0] : sum(sizes)], inverse, norm)
        shape = joint.shape[0], c.num_attention_heads, -1
        queries = products.matmul(q_rows, q_up.rows).view(shape)
        expanded = products.matmul(rows, up.rows).view(shape)
        rotate_tail_(queries, turns, c.qk_nope_head_dim)
        attended, kept = fused_attention.forward(queries, expanded, key, segments, c.qk_nope_head_dim, scale)
        out_rows, out_columns = quantize_both(attended)
        ctx.save_for_backward(
            joint, turns, q_norm, norm, *x_columns, *q_columns, *columns, *out_columns, *kept
        )  # fmt: skip
        return products.matmul(out_rows, last.rows)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Any, ...]:
        joint, turns, q_norm, norm, *saved = ctx.saved_tensors
        x, q, latent, out = (Quantized(*saved[i : i + 2]) for i in (0, 2, 4, 6))
        down, q_up, up, last = ctx.weights
        c = ctx.c
        dy_rows, dy_columns = quantize_both(dy)
        d_out = products.matmul(dy_rows, last.turned)
        dq, dk, dv = fused_attention.backward(d_out, fused_attention.Kept(*saved[8:]), ctx.segments, ctx.scale)
        dq_rows, dq_columns = queries_backward(dq, turns, c.qk_nope_head_dim)
        d_rows, d_columns, d_key = keys_backward(dk, dv, c.qk_nope_head_dim)
        d_q, d_latent = products.matmul(dq_rows, q_up.turned), products.matmul(d_rows, up.turned)
        d_joint, *d_norms = norms.latents_backward(
            joint, turns, q_norm, norm, c.rms_norm_eps, d_q, d_latent, d_key
        )  # fmt: skip
        joint_rows, joint_columns = quantize_both(d_joint)
        dw = (
            *products.wgrad(joint_columns, x).split(ctx.sizes),
            products.wgrad(dq_columns, q), products.wgrad(d_columns, latent), products.wgrad(dy_columns, out),
        )  # fmt: skip
        return products.matmul(joint_rows, down.turned), None, None, None, None, *d_norms, *dw


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.w, ctx.sizes = _quantized(*parameters), _heights(*parameters)
        x_rows, x_columns = quantize_both(x)
        ctx.save_for_backward(*x_columns)
        return products.matmul(x_rows, ctx.w.rows)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, ...]:
        dy_rows, dy_columns = quantize_both(dy)
        dw = products.wgrad(dy_columns, Quantized(*ctx.saved_tensors))
        return products.matmul(dy_rows, ctx.w.turned), *dw.split(ctx.sizes)


class _GatedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        ctx.weights, ctx.sizes = (_quantized(gate, up), _quantized(down)), _heights(gate, up)
        out, kept = _gated(*quantize_both(x), *ctx.weights)
        ctx.save_for_backward(*kept)
        return out

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, ...]:
        dx, d_up, d_down, _ = _gated_backward(*quantize_both(dy), ctx.saved_tensors, *ctx.weights)
        return dx, *d_up.split(ctx.sizes), d_down


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gates: Tensor, places: Places, up: Tensor, down: Tensor, *shared: Tensor) -> Tensor:
        ctx.up, ctx.down, ctx.places = _quantized(up), _quantized(down), places
        base: Tensor | None = None
        shared_kept: tuple[Tensor, ...] = ()
        if shared:
            ctx.shared, ctx.sizes = (_quantized(*shared[:2]), _quantized(shared[2])), _heights(*shared[:2])
            x_rows, x_columns = quantize_both(x)
            base, shared_kept = _gated(x_rows, x_columns, *ctx.shared)
        else:
            x_rows = quantize_tiles(x)
        out, kept = _gated(*quantize_placed(x, x_rows, places), ctx.up, ctx.down, gates, places)
        ctx.save_for_backward(gates, *kept, *shared_kept)
        return unpermute(out, places.place, base=base)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Any, ...]:
        gates, *kept = ctx.saved_tensors
        base, d_shared = None, ()
        if kept[5:]:
            dy_rows, dy_columns = quantize_both(dy)
            base, d_up, d_down, _ = _gated_backward(dy_rows, dy_columns, kept[5:], *ctx.shared)
            d_shared = (*d_up.split(ctx.sizes), d_down)
        else:
            dy_rows = quantize_tiles(dy)
        places = ctx.places
        placed = quantize_placed(dy, dy_rows, places)
        dx, d_up, d_down, d_gates = _gated_backward(*placed, kept[:5], ctx.up, ctx.down, gates, places)
        return unpermute(dx, places.place, base=base), d_gates[places.place], None, d_up, d_down, *d_shared


def _gated(
    x_rows: Quantized, x_columns: Quantized, up: Weights, down: Weights, gates: Tensor | None = None,
    places: Places | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """SwiGLU of x, with ``places`` in rows of experts, and what the backward pass needs: the transposed tiles of x and
    of the hidden values and, in BF16, gate and up."""
    gate_up = _matmul(x_rows, up.rows, places)
    hidden, hidden_columns = swiglu_quantize(gate_up, gates, places)
    return _matmul(hidden, down.rows, places), (*x_columns, *hidden_columns, gate_up)


def _gated_backward(
    dy_rows: Quantized, dy_columns: Quantized, kept: Sequence[Tensor], up: Weights, down: Weights,
    gates: Tensor | None = None, places: Places | None = None,
) -> tuple[Tensor, Tensor, Tensor, Any]:  # fmt: skip
    """The gradients of x, of both weights and, with ``places``, FP32 of each row's gate."""
    x_columns, hidden_columns, gate_up = Quantized(*kept[:2]), Quantized(*kept[2:4]), kept[4]
    d_down = _wgrad(dy_columns, hidden_columns, places)
    grads = swiglu_backward(gate_up, _matmul(dy_rows, down.turned, places), gates, places)
    d_up = _wgrad(grads.d_columns, x_columns, places)
    return _matmul(grads.d_rows, up.turned, places), d_up, d_down, grads.d_gates


def _matmul(x: Quantized, w: Quantized, places: Places | None) -> Tensor:
    return products.matmul(x, w) if places is None else products.grouped_matmul(x, w, places.ends)


def _wgrad(dy: Quantized, x: Quantized, places: Places | None) -> Tensor:
    return products.wgrad(dy, x) if places is None else products.grouped_wgrad(dy, x, places.ends)


def _heights(*weights: Tensor) -> list[int]:
    """Not len: torch answers that in Python, at the cost of an operator."""
    return [weight.shape[0] for weight in weights]


def _multiply(x: Tensor, w: Weights) -> Tensor:
    return products.matmul(quantize_tiles(x), w.rows)


def _quantized(*parameters: Tensor) -> Weights:
    """The weights, one under another, in FP8."""
    return derived.of(_quantize, *parameters)


def _quantize(*weights: Tensor) -> Weights:
    stacked = torch.cat(weights) if len(weights) > 1 else weights[0]
    rows, turned = quantize_blocks(stacked if stacked.dim() == 3 else stacked.unsqueeze(0), transpose=True)
    assert turned is not None
    return Weights(rows, turned)


def _whole(layers: Sequence[GroupedLinear]) -> bool:
    *outputs, last = [layer.weight.shape[-2] for layer in layers]
    return last % 16 == 0 and not any(size % BLOCK for size in (*outputs, *(w.weight.shape[-1] for w in layers)))


@functools.cache
def _hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
