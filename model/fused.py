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

from model import derived, fused_attention, fused_fp8
from model.config import ModelConfig
from model.kernels import elementwise, norms, rows
from model.kernels import router as kernel
from model.kernels.rows import Places
from model.segments import Segments, _FromRows, _ToRows

if TYPE_CHECKING:
    from model.attention import Attention
    from model.linear import Linear, RMSNorm
    from model.moe import MLP, Experts, MoE, Router, Routing
    from model.transformer import Block


LOGITS = 2**30
"""At once, in BF16."""


def linear(layer: Linear, x: Tensor) -> Any:
    """FP8 alone: in BF16 torch's own product is the reference."""
    return fused_fp8.product(x, layer) if fused_fp8.serves(layer) else NotImplemented


def together(x: Tensor, *layers: Linear) -> Any:
    if not fused_fp8.serves(*layers):
        return NotImplemented
    return fused_fp8.product(x, *layers).split([len(layer.weight) for layer in layers], -1)


def add_norm(x: Tensor, more: Tensor | None, norm: RMSNorm) -> Any:
    if x.dim() == 2:
        return _AddNorm.apply(x, more, norm.weight, norm.eps)
    flat = fused_fp8.as_rows(x), None if more is None else fused_fp8.as_rows(more)
    total, normed = _AddNorm.apply(*flat, norm.weight, norm.eps)
    return total.view_as(x), normed.view_as(x)


def latents(layer: Attention, x: Tensor, turns: Tensor) -> Any:
    pair = layer.q_a_proj, layer.kv_a_proj_with_mqa
    if fused_fp8.serves(*pair):
        joint = fused_fp8.product(x, *pair)
    elif any(projection.fp8 for projection in pair):
        return NotImplemented
    else:
        joint = F.linear(x, torch.cat([projection.weight for projection in pair]).to(x.dtype))
    q_norm, norm = layer.q_a_layernorm, layer.kv_a_layernorm
    return _Latents.apply(joint, turns, q_norm.weight, norm.weight, norm.eps)


def mlp(layer: MLP, x: Tensor) -> Any:
    gate, up, down = layer.gate_proj, layer.up_proj, layer.down_proj
    if fused_fp8.serves(gate, up, down):
        return fused_fp8.gated_mlp(x, gate, up, down)
    gate_up = F.linear(x, torch.cat([gate.weight, up.weight]).to(x.dtype))
    return down(_SwiGLU.apply(gate_up, None, None))


def mixture(layer: MoE, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Routing]:
    out, _, routing = _mixture(layer, x, given, None)
    return out, routing


def mixture_onto(layer: MoE, x: Tensor, given: Tensor | None, stream: Tensor) -> tuple[Tensor, Tensor | None, Routing]:
    return _mixture(layer, x, given, fused_fp8.as_rows(stream))


def _mixture(
    layer: MoE, x: Tensor, given: Tensor | None, stream: Tensor | None
) -> tuple[Tensor, Tensor | None, Routing]:
    """Each step hands x on, so that the gradients of all that read it are added in their products."""
    routing, flat = route(layer.gate, fused_fp8.as_rows(x), given)
    places = rows.places(routing.indices, routing.counts)
    shared = layer.shared_experts if layer.shared else None
    eps = layer.gate.c.rms_norm_eps
    out, inverse = experts(layer.experts, shared, flat, routing.gates, places, stream, eps)
    return out if x.dim() == 2 else out.view_as(x), inverse, routing


def experts(
    layer: Experts, shared: MLP | None, x: Tensor, gates: Tensor, places: Places, stream: Tensor | None, eps: float
) -> tuple[Tensor, Tensor | None]:
    """The gated sum over each token's experts, whose rows are in `Places`, ``shared`` and ``stream``, and in FP8 what
    `MoE.onto` says; BF16 products are `F.grouped_mm`."""
    if fused_fp8.serves(layer.gate_up_proj, layer.down_proj):
        if shared is None or fused_fp8.serves(shared.gate_proj, shared.up_proj, shared.down_proj):
            return fused_fp8.experts(layer, shared, x, gates, places, stream, eps)
        return fused_fp8.experts(layer, None, x, gates, places, stream, eps)[0] + shared(x), None
    up, down = (w.to(x.dtype).mT for w in (layer.gate_up_proj.weight, layer.down_proj.weight))
    taken, x = _ToExperts.apply(x, places)
    hidden = _SwiGLU.apply(F.grouped_mm(taken, up, offs=places.ends), gates, places)
    base = None if shared is None else shared(x)
    out: Tensor = _FromExperts.apply(F.grouped_mm(hidden, down, offs=places.ends), places, base, stream)
    return out, None


def route(layer: Router, x: Tensor, given: Tensor | None) -> tuple[Routing, Tensor]:
    """The routing, and x."""
    from model.moe import Routing

    if layer.c.scoring_func != "sigmoid" or (layer.c.n_group > 1 and layer.c.group_best != 2):
        return layer(x, given), x
    bias = layer.e_score_correction_bias
    x, scores, own, gates, counts, *chosen = _Route.apply(x, layer.weight, bias, given, layer.c)
    return Routing(scores, chosen[0] if chosen else own, gates, counts, own), x


def rotate_tail(x: Tensor, turns: Tensor, start: int) -> Any:
    """x [N, D] with turns [N, D/2], or x [N, heads, D] with turns [N, 1, D/2]."""
    if x.dim() == 2:
        return _RotateTail.apply(x.unsqueeze(1), turns, start).squeeze(1)
    return _RotateTail.apply(x, turns.squeeze(-2), start)


def normed_attention(
    block: Block, x: Tensor, more: Tensor | None, inverse: Tensor | None, turns: Tensor, segments: Segments
) -> Any:
    """FP8 alone, where a gradient is wanted."""
    layer = block.self_attn
    if not torch.is_grad_enabled() or layer.c.q_lora_rank is None or not fused_fp8.serves_attention(layer):
        return NotImplemented
    if x.dim() != 2 or not fused_attention.serves(layer.c, segments, x.device):
        return NotImplemented
    return *fused_fp8.attention(layer, block.input_layernorm, x, more, inverse, turns, segments), None


def attend(layer: Attention, q: Tensor, latent: Tensor, key: Tensor, turns: Tensor, segments: Segments) -> Any:
    if not fused_attention.serves(layer.c, segments, q.device):
        return NotImplemented
    return _Attend.apply(layer.queries(q), layer.kv_b_proj(latent), key, turns, segments, layer.c, layer.scale)


def keys_and_values(expanded: Tensor, shared: Tensor, nope: int) -> tuple[Tensor, Tensor]:
    keys, values = _KeysAndValues.apply(expanded, shared, nope)
    return keys, values


def attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """cuDNN's attention over rows, which is twice as fast as the kernel for packed sequences; that one where rows would
    be padded by more."""
    count, longest, total = len(segments.lengths), segments.longest, sum(segments.lengths)
    even = count * longest == len(q)
    if count * longest > fused_attention.PADDED * total:
        return _packed_attention(q, k, v, segments, scale)
    read = (x if even else _ToRows.apply(x, segments) for x in (q, k, v))
    q, k, v = (x.unflatten(0, (count, longest)).transpose(1, 2) for x in read)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION], set_priority=True):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    flat = out.transpose(1, 2).flatten(0, 1)
    return flat if even else _FromRows.apply(flat, segments.home)


def token_logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, temperature: float = 1.0, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """``chunk`` is by default as many rows as `LOGITS` are, and 8192 at the least."""
    chunk = chunk or max(8192, LOGITS // head.shape[0])
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


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, q: Tensor, expanded: Tensor, key: Tensor, turns: Tensor, segments: Segments, c: ModelConfig, scale: float
    ) -> Tensor:
        heads, nope = c.num_attention_heads, c.qk_nope_head_dim
        q = elementwise.rotate_tail(q.view(len(q), heads, -1), turns, nope)
        expanded = expanded.view(len(q), heads, -1)
        keys = elementwise.join_keys(expanded, key, nope)
        out, kept = fused_attention.forward(q, keys, expanded[..., nope:], segments, scale)
        ctx.save_for_backward(turns, *kept)
        ctx.segments, ctx.nope, ctx.scale = segments, nope, scale
        return out

    @staticmethod
    def backward(ctx, dy: Tensor):
        turns, *kept = ctx.saved_tensors
        dq, dk, dv = fused_attention.backward(dy, fused_attention.Kept(*kept), ctx.segments, ctx.scale)
        d_expanded, d_key = elementwise.join_keys_backward(dk, dv, ctx.nope)
        elementwise.rotate_tail_(dq, turns, ctx.nope, back=True)
        return dq.flatten(1), d_expanded.flatten(1), d_key, None, None, None, None


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, more: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        total, normed = norms.add_norm(x, more, weight, eps)
        ctx.save_for_backward(total, weight)
        ctx.eps, ctx.alone = eps, more is None
        return total, normed

    @staticmethod
    def backward(ctx, d_total: Tensor | None, d_normed: Tensor):
        total, weight = ctx.saved_tensors
        dx, dw = norms.add_norm_backward(total, weight, ctx.eps, d_total, d_normed)
        return dx, None if ctx.alone else dx, dw, None


class _Latents(torch.autograd.Function):
    @staticmethod
    def forward(ctx, joint: Tensor, turns: Tensor, q_weight: Tensor, weight: Tensor, eps: float):
        ctx.save_for_backward(joint, turns, q_weight, weight)
        ctx.eps = eps
        return norms.latents(joint, turns, q_weight, weight, eps)

    @staticmethod
    def backward(ctx, dq: Tensor, d_latent: Tensor, d_key: Tensor):
        joint, turns, q_weight, weight = ctx.saved_tensors
        d_joint, *d_weights = norms.latents_backward(joint, turns, q_weight, weight, ctx.eps, dq, d_latent, d_key)
        return d_joint, None, *d_weights, None


class _ToExperts(torch.autograd.Function):
    """The rows of the experts, and x."""

    @staticmethod
    def forward(ctx, x: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.places = places
        return rows.permute(x, places), x

    @staticmethod
    def backward(ctx, dy: Tensor, dx: Tensor | None) -> tuple[Tensor, None]:
        return rows.unpermute(dy, ctx.places.place, base=dx), None


class _FromExperts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, places: Places, base: Tensor | None, stream: Tensor | None) -> Tensor:
        ctx.places, ctx.given = places, (base is not None, stream is not None)
        return rows.unpermute(y, places.place, base=base, stream=stream)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        return rows.permute(dy, ctx.places), None, *(dy if given else None for given in ctx.given)


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
    """The router; x is handed on. Its logits are FP32 although the tensor cores multiply BF16: an FP32 weight is the
    sum of three BF16 numbers, whose products with a BF16 input are exact. Gradients are multiplied in BF16 like all
    others."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, given: Tensor | None, c: Any) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        terms = derived.of(derived.bf16_terms, weight)
        logits = torch.mm(x, terms.T, out_dtype=torch.float32).unflatten(-1, (3, -1))
        scores, own, gates, counts = kernel.route(
            logits, bias, k=c.num_experts_per_tok, groups=c.n_group, kept=c.topk_group, normalize=c.norm_topk_prob,
            factor=c.routed_scaling_factor,
        )  # fmt: skip
        ctx.c, ctx.first = c, terms[: len(weight)]
        if given is None:
            ctx.save_for_backward(x, scores, own)
            ctx.mark_non_differentiable(own, counts)
            return x, scores, own, gates, counts
        chosen = torch.where(given < 0, own, given)
        gates = scores.gather(-1, chosen)
        if c.norm_topk_prob:
            gates /= gates.sum(-1, keepdim=True) + 1e-20
        gates *= c.routed_scaling_factor
        counts = torch.zeros_like(counts).scatter_add_(0, chosen.flatten(), torch.ones_like(chosen).flatten())
        ctx.save_for_backward(x, scores, chosen)
        ctx.mark_non_differentiable(own, counts, chosen)
        return x, scores, own, gates, counts, chosen

    @staticmethod
    def backward(ctx, dx: Tensor | None, d_scores: Tensor | None, _: None, d_gates: Tensor | None, *_none: None):
        x, scores, indices = ctx.saved_tensors
        d = kernel.route_backward(
            scores, indices, d_scores, d_gates, normalize=ctx.c.norm_topk_prob, factor=ctx.c.routed_scaling_factor,
            dtype=x.dtype,
        )  # fmt: skip
        dx = d @ ctx.first if dx is None else dx.addmm_(d, ctx.first)  # no other holds it
        return dx, torch.mm(d.T, x, out_dtype=torch.float32), None, None, None


class _TokenLogprobs(torch.autograd.Function):
    """Logits are made again in the backward pass, where their gradient takes their place; but for those of the last
    chunk, which the backward pass begins with."""

    @staticmethod
    def forward(
        ctx, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        weight = head.to(hidden.dtype)
        parts = []
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = h @ weight.T
            parts.append(elementwise.logprobs(logits, t, temperature))
        logp, entropy, lse = (torch.cat(same) for same in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.last = logits if ctx.needs_input_grad[0] else None
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx, d_logp: Tensor, _: Tensor):
        hidden, weight, targets, lse = ctx.saved_tensors
        d_hidden, d_weight, logits = torch.empty_like(hidden), None, ctx.last
        ctx.last = None
        cut = (t.split(ctx.chunk)[::-1] for t in (hidden, targets, lse, d_logp.contiguous(), d_hidden))
        for h, t, log_sum, d, out in zip(*cut, strict=True):
            logits = h @ weight.T if logits is None else logits
            elementwise.logprobs_backward(logits, t, log_sum, d, ctx.temperature)
            torch.mm(logits, weight, out=out)
            part = torch.mm(logits.T, h, out_dtype=torch.float32)
            d_weight = part if d_weight is None else d_weight.add_(part)
            logits = None
        return d_hidden, d_weight, None, None, None
