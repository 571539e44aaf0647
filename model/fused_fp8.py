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
from model.kernels.gradients import keys_backward, latents_backward, queries_backward
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
from model.kernels.rows import Places, unpermute, unpermute_onto
from model.linear import GroupedLinear, Linear, RMSNorm
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


def experts(
    layer: Experts, shared: MLP | None, x: Tensor, gates: Tensor, places: Places, stream: Tensor | None, eps: float
) -> tuple[Tensor, Tensor | None]:
    """The sum, times ``gates`` [T, K], over each token's experts, and ``shared``, of x [T, H], and ``stream``, with
    which comes what `MoE.onto` says."""
    weights = [layer.gate_up_proj.weight, layer.down_proj.weight]
    if shared is not None:
        weights += [part.weight for part in (shared.gate_proj, shared.up_proj, shared.down_proj)]
    out, inverse = _Experts.apply(x, gates, places, stream, eps, *weights)
    return out, inverse


def serves_attention(layer: Attention) -> bool:
    """Whether `attention` does: every projection in FP8, on Hopper, in whole blocks."""
    c = layer.c
    sizes = (c.hidden_size, c.q_lora_rank or 1, c.kv_lora_rank, c.qk_nope_head_dim, c.v_head_dim)
    if c.qk_rope_head_dim % 16 or any(size % BLOCK for size in sizes):
        return False
    return all(projection.fp8 for projection in _projections(layer)) and _hopper(layer.o_proj.weight.device)


def attention(
    layer: Attention, norm: RMSNorm, x: Tensor, more: Tensor | None, inverse: Tensor | None, turns: Tensor,
    segments: Segments,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A stream's sum, and `Attention.forward` of its norm, whose queries have latents, in one autograd function."""
    parts = norm, layer.q_a_layernorm, layer.kv_a_layernorm, *_projections(layer)
    weights = (part.weight for part in parts)
    total, out = _Attention.apply(x, more, inverse, turns, segments, layer.c, layer.scale, *weights)
    return total, out


def _projections(layer: Attention) -> tuple[Linear, ...]:
    return layer.q_a_proj, layer.kv_a_proj_with_mqa, layer.q_b_proj, layer.kv_b_proj, layer.o_proj


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, more: Tensor | None, x_inverse: Tensor | None, turns: Tensor, segments: Segments,
        c: ModelConfig, scale: float, x_norm: Tensor, q_norm: Tensor, norm: Tensor, *projections: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.set_materialize_grads(False)
        q_a, kv_a, *others = projections
        ctx.weights = down, q_up, up, last = [_quantized(q_a, kv_a), *map(_quantized, others)]
        ctx.segments, ctx.c, ctx.scale, ctx.sizes = segments, c, scale, _heights(q_a, kv_a)
        ctx.alone = more is None
        total = x
        if x_inverse is None:
            total, x_inverse = norms.add_inverse(x, more, c.rms_norm_eps)
        x_rows, x_columns = quantize_normed(total, x_inverse, x_norm)
        joint = products.matmul(x_rows, down.rows)
        sizes = q_norm.shape[0], norm.shape[0]
        nope, tokens, heads = c.qk_nope_head_dim, joint.shape[0], c.num_attention_heads
        both = joint.new_empty(tokens, heads, c.qk_head_dim + c.v_head_dim)
        keys, values = both.split([c.qk_head_dim, c.v_head_dim], -1)
        inverses = norms.latent_inverses(joint, turns, *sizes, c.rms_norm_eps, keys[..., nope:])
        q_rows, q_columns = quantize_normed(joint[:, : sizes[0]], inverses[0], q_norm)
        rows, columns = quantize_normed(joint[:, sizes[0] : sum(sizes)], inverses[1], norm)
        queries = products.matmul(q_rows, q_up.rows).view(tokens, heads, -1)
        rotate_tail_(queries, turns, nope)
        products.keys_and_values(rows, up.rows, both, nope)
        attended, kept = fused_attention.forward(queries, keys, values, segments, scale)
        out_rows, out_columns = quantize_both(attended)
        ctx.save_for_backward(
            total, x_norm, joint, turns, q_norm, norm, inverses, *x_columns, *q_columns, *columns, *out_columns, *kept
        )  # fmt: skip
        return total, products.matmul(out_rows, last.rows)

    @staticmethod
    def backward(ctx, d_total: Tensor | None, dy: Tensor) -> tuple[Any, ...]:
        total, x_norm, joint, turns, q_norm, norm, inverses, *saved = ctx.saved_tensors
        x, q, latent, out = (Quantized(*saved[i : i + 2]) for i in (0, 2, 4, 6))
        down, q_up, up, last = ctx.weights
        c = ctx.c
        dy_rows, dy_columns = quantize_both(dy)
        d_out = products.matmul(dy_rows, last.turned)
        dq, dk, dv = fused_attention.backward(d_out, fused_attention.Kept(*saved[8:]), ctx.segments, ctx.scale)
        dq_rows, dq_columns = queries_backward(dq, turns, c.qk_nope_head_dim)
        d_rows, d_columns, d_key = keys_backward(dk, dv, c.qk_nope_head_dim)
        d_q, d_latent = products.matmul(dq_rows, q_up.turned), products.matmul(d_rows, up.turned)
        joint_rows, joint_columns, d_norms = latents_backward(
            joint, turns, (q_norm, norm), inverses, d_q, d_latent, d_key
        )  # fmt: skip
        dw = (
            *products.wgrad(joint_columns, x).split(ctx.sizes),
            products.wgrad(dq_columns, q), products.wgrad(d_columns, latent), products.wgrad(dy_columns, out),
        )  # fmt: skip
        d_normed = products.matmul(joint_rows, down.turned)
        dx, d_norm = norms.add_norm_backward(total, x_norm, c.rms_norm_eps, d_total, d_normed)
        d_weights = d_norm, *d_norms.split([q_norm.shape[0], norm.shape[0]]), *dw
        return dx, None if ctx.alone else dx, None, None, None, None, None, *d_weights


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
    def forward(
        ctx, x: Tensor, gates: Tensor, places: Places, stream: Tensor | None, eps: float, up: Tensor, down: Tensor,
        *shared: Tensor,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        ctx.up, ctx.down, ctx.places, ctx.added = _quantized(up), _quantized(down), places, stream is not None
        ctx.set_materialize_grads(False)
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
        if stream is None:
            return unpermute(out, places.place, base=base), None
        total, inverse = unpermute_onto(out, places.place, base, stream, eps)
        ctx.mark_non_differentiable(inverse)
        return total, inverse

    @staticmethod
    def backward(ctx, dy: Tensor, _: None) -> tuple[Any, ...]:
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
        dx = unpermute(dx, places.place, base=base)
        return dx, d_gates[places.place], None, dy if ctx.added else None, None, d_up, d_down, *d_shared


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
