"""The model's operators on a GPU, each with the arguments of the reference that `model.dispatch.on_gpu` names it in.
Nothing here waits for the device. FP8 products are in `model.fused_fp8`.
"""

# torch leaves the context of autograd functions untyped.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from model import fused_fp8
from model.kernels import elementwise, rows
from model.kernels import router as kernel
from model.kernels.rows import Places
from model.segments import Segments, _FromRows, _ToRows

if TYPE_CHECKING:
    from model.linear import Linear
    from model.moe import MLP, Experts, Router, Routing

PADDED = 2.0
"""Up to so many row places a token, attention reads tokens into rows."""


def linear(layer: Linear, x: Tensor) -> Any:
    """FP8 alone: in BF16 torch's own product is the reference."""
    if not fused_fp8.serves(layer):
        return NotImplemented
    return fused_fp8.linear(x, layer)[0]


def together(x: Tensor, *layers: Linear) -> Any:
    return fused_fp8.linear(x, *layers) if fused_fp8.serves(*layers) else NotImplemented


def mlp(layer: MLP, x: Tensor) -> Any:
    gate, up, down = layer.gate_proj, layer.up_proj, layer.down_proj
    if fused_fp8.serves(gate, up, down):
        return fused_fp8.gated_mlp(x, [gate, up], down)
    gate_up = F.linear(x, torch.cat([gate.weight, up.weight]).to(x.dtype))
    return down(_SwiGLU.apply(gate_up, None, None))


def experts(layer: Experts, x: Tensor, routing: Routing) -> Tensor:
    """The rows of each expert in `Places`; BF16 products are `F.grouped_mm`."""
    places = rows.places(routing.indices, routing.counts)
    if fused_fp8.serves(layer.gate_up_proj, layer.down_proj):
        return fused_fp8.gated_mlp(x, [layer.gate_up_proj], layer.down_proj, routing.gates, places)
    up, down = (w.to(x.dtype).mT for w in (layer.gate_up_proj.weight, layer.down_proj.weight))
    gate_up = F.grouped_mm(_ToExperts.apply(x, places), up, offs=places.ends)
    hidden = _SwiGLU.apply(gate_up, routing.gates, places)
    out: Tensor = _FromExperts.apply(F.grouped_mm(hidden, down, offs=places.ends), places)
    return out


def route(layer: Router, x: Tensor, given: Tensor | None = None) -> Any:
    from model.moe import Routing

    if layer.c.scoring_func != "sigmoid" or (layer.c.n_group > 1 and layer.c.group_best != 2):
        return NotImplemented
    return Routing(*_Route.apply(x, layer.weight, layer.e_score_correction_bias, given, layer.c))


def rotate_tail(x: Tensor, turns: Tensor, start: int) -> Any:
    """x [N, D] with turns [N, D/2], or x [N, heads, D] with turns [N, 1, D/2]."""
    if x.dim() == 2:
        return _RotateTail.apply(x.unsqueeze(1), turns, start).squeeze(1)
    return _RotateTail.apply(x, turns.squeeze(-2), start)


def keys_and_values(expanded: Tensor, shared: Tensor, nope: int) -> tuple[Tensor, Tensor]:
    keys, values = _KeysAndValues.apply(expanded, shared, nope)
    return keys, values


def attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """cuDNN's attention over rows, which is twice as fast as the kernel for packed sequences; that one where rows would
    be padded by more."""
    count, longest, total = len(segments.lengths), segments.longest, sum(segments.lengths)
    even = count * longest == len(q)
    if count * longest > PADDED * total:
        return _packed_attention(q, k, v, segments, scale)
    read = (x if even else _ToRows.apply(x, segments) for x in (q, k, v))
    q, k, v = (x.unflatten(0, (count, longest)).transpose(1, 2) for x in read)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION], set_priority=True):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    flat = out.transpose(1, 2).flatten(0, 1)
    return flat if even else _FromRows.apply(flat, segments.home)


def token_logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, temperature: float = 1.0, chunk: int = 8192
) -> tuple[Tensor, Tensor]:
    logp, entropy = _TokenLogprobs.apply(hidden, head, targets, temperature, chunk)
    return logp, entropy


def _packed_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """Flash attention over sequences laid end to end; it wants values as wide as keys."""
    packed, ends = _packed(segments)
    wide = F.pad(v, (0, q.shape[-1] - v.shape[-1]))
    if len(segments.copies):
        q, k, wide = (_ToRows.apply(x, packed) for x in (q, k, wide))
    longest = segments.longest
    out: Any = varlen_attn(q, k, wide, ends, ends, longest, longest, scale=scale, window_size=(-1, 0))
    narrow: Tensor = out[..., : v.shape[-1]]
    return _FromRows.apply(narrow, packed.home) if len(segments.copies) else narrow


def _packed(segments: Segments) -> tuple[Segments, Tensor]:
    """The same segments with rows laid end to end instead of padded to the longest, and int32 [S + 1], where each
    begins and the last ends."""
    device, longest, total = segments.ids.device, segments.longest, sum(segments.lengths)
    lengths = torch.tensor(segments.lengths, device=device)
    starts = F.pad(lengths.cumsum(0), (1, 0))
    row = torch.arange(len(lengths), device=device).repeat_interleave(lengths, output_size=total)
    place = torch.arange(total, device=device) - starts[row] + row * longest

    def moved(padded: Tensor) -> Tensor:
        return padded % longest + starts[padded // longest]

    packed = replace(segments, source=segments.source[place], home=moved(segments.home), copies=moved(segments.copies))
    return packed, starts.to(torch.int32)


class _KeysAndValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx, expanded: Tensor, shared: Tensor, nope: int) -> tuple[Tensor, Tensor]:
        ctx.nope = nope
        return elementwise.join_keys(expanded, shared, nope), expanded[..., nope:]

    @staticmethod
    def backward(ctx, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, None]:
        return *elementwise.join_keys_backward(dk, dv, ctx.nope), None


class _ToExperts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return rows.permute(x, places)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:
        return rows.unpermute(dy, ctx.places.place), None


class _FromExperts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return rows.unpermute(y, places.place)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:
        return rows.permute(dy, ctx.places), None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up: Tensor, gates: Tensor | None, places: Places | None) -> Tensor:
        ctx.save_for_backward(gate_up, gates)
        ctx.places = places
        flat = gate_up.flatten(0, -2)
        return elementwise.swiglu(flat, gates, places).view(*gate_up.shape[:-1], -1)

    @staticmethod
    def backward(ctx, dh: Tensor) -> tuple[Tensor, Tensor | None, None]:
        gate_up, gates = ctx.saved_tensors
        flat = gate_up.flatten(0, -2)
        d, d_gates = elementwise.swiglu_backward(flat, dh.reshape(len(flat), -1), gates, ctx.places)
        return d.view_as(gate_up), None if ctx.places is None else d_gates[ctx.places.place], None


class _RotateTail(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, turns: Tensor, start: int) -> Tensor:
        ctx.turns, ctx.start = turns, start
        return elementwise.rotate_tail(x, turns, start)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None, None]:
        return elementwise.rotate_tail(dy, ctx.turns, ctx.start, back=True), None, None


class _Route(torch.autograd.Function):
    """The router. Its logits are FP32 although the tensor cores multiply BF16: an FP32 weight is the sum of three BF16
    numbers, whose products with a BF16 input are exact. Gradients are multiplied in BF16 like all others."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, given: Tensor | None, c: Any) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        logits = torch.mm(x, _parts(weight).T, out_dtype=torch.float32).unflatten(-1, (3, -1)).sum(1)
        scores, own, gates, counts = kernel.route(
            logits, bias, k=c.num_experts_per_tok, groups=c.n_group, kept=c.topk_group, normalize=c.norm_topk_prob,
            factor=c.routed_scaling_factor,
        )  # fmt: skip
        indices = own.clone() if given is None else torch.where(given < 0, own, given)
        if given is not None:
            gates = scores.gather(-1, indices)
            if c.norm_topk_prob:
                gates /= gates.sum(-1, keepdim=True) + 1e-20
            gates *= c.routed_scaling_factor
            counts = torch.zeros_like(counts).scatter_add_(0, indices.flatten(), torch.ones_like(indices).flatten())
        ctx.save_for_backward(x, weight, scores, indices)
        ctx.c = c
        ctx.mark_non_differentiable(indices, counts, own)
        return scores, indices, gates, counts, own

    @staticmethod
    def backward(ctx, d_scores: Tensor | None, _: None, d_gates: Tensor | None, *_none: None):
        x, weight, scores, indices = ctx.saved_tensors
        d = torch.zeros_like(scores) if d_scores is None else d_scores.clone()
        if d_gates is not None:
            picked = scores.gather(-1, indices)
            d_picked = d_gates * ctx.c.routed_scaling_factor
            if ctx.c.norm_topk_prob:
                total = picked.sum(-1, keepdim=True) + 1e-20
                d_picked = (d_picked - (d_picked * picked).sum(-1, keepdim=True) / total) / total
            d.scatter_add_(-1, indices, d_picked)
        d = (d * scores * (1 - scores)).to(x.dtype)
        return d @ weight.to(x.dtype), torch.mm(d.T, x, out_dtype=torch.float32), None, None, None


def _parts(weight: Tensor) -> Tensor:
    """FP32 [E, H] as three BF16 [3 E, H] that add up to it."""
    parts = []
    for _ in range(3):
        parts.append(weight.to(torch.bfloat16))
        weight = weight - parts[-1].float()
    return torch.cat(parts)


class _TokenLogprobs(torch.autograd.Function):
    """Logits are made again in the backward pass, where their gradient takes their place."""

    @staticmethod
    def forward(
        ctx, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        weight = head.to(hidden.dtype)
        parts = [
            elementwise.logprobs(h @ weight.T, t, temperature)
            for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
        logp, entropy, lse = (torch.cat(same) for same in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx, d_logp: Tensor, _: Tensor):
        hidden, weight, targets, lse = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        cut = (t.split(ctx.chunk) for t in (hidden, targets, lse, d_logp.contiguous(), d_hidden))
        for h, t, log_sum, d, out in zip(*cut, strict=True):
            logits = h @ weight.T
            elementwise.logprobs_backward(logits, t, log_sum, d, ctx.temperature)
            torch.mm(logits, weight, out=out)
            d_weight += torch.mm(logits.T, h, out_dtype=torch.float32)
        return d_hidden, d_weight, None, None, None
