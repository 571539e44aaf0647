"""Decoding in waves: the next tokens of every row against a cache of latents.

A step has a token a row, and of an operator that short a CPU has half the time for finding it. So a `Decoder` takes
the weights out of the modules once, as they are multiplied, and runs plain functions over them; in FP32 on a CPU the
compiled ones of `model.compiled`. What it computes is the modules' own arithmetic, but for attention: the cache holds a
token's latent, as kv_b_proj is given it, and its turned key, and is never expanded. kv_b_proj is absorbed into the
query and the output (DeepSeek-V2 report, section 2.1.2), which gives the same numbers because the expansion is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model import fp8, rope
from model.attention import Attention
from model.linear import Linear, rms_norm
from model.moe import MLP, Routing, by_expert, route, swiglu, to_experts, to_tokens
from model.transformer import MTP, Block, Transformer


class Reach(NamedTuple):
    """Of W new tokens a row, B W in all: their ``turns`` [B W, rope / 2], the ``places`` [B W] of the cache that they
    go to, and the ``mask`` [B, 1 or W, T] that is added to their scores: 0 for the keys up to each token's own, -inf
    for others. All keys lie before ``used``."""

    turns: Tensor
    places: Tensor
    mask: Tensor
    used: int


class Decoder:
    """A model's weights as its steps multiply them, for as long as they stay as they are."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        layer = Layer
        if model.device.type == "cpu" and model.dtype == torch.float32:
            from model.compiled import CompiledLayer as layer
        self.layers = [layer(block, model.dtype) for block in model.blocks()]
        self.module = next((module for module in model.mtp if isinstance(module, MTP)), None)
        self.drafter = self.module and layer(self.module.block, model.dtype)

    def step(self, tokens: Tensor, cache: Sequence[Tensor], reach: Reach) -> tuple[Tensor, list[Routing]]:
        """The next tokens of each row, as many of one as of another: tokens [B W], cache of [B, T, kv_lora_rank +
        rope] a layer, which is written and read. Returns hidden [B W, H] after the final norm and each MoE layer's
        routing."""
        x = self.model.embed_tokens(tokens).to(self.model.dtype)
        found: list[Routing] = []
        for layer, kept in zip(self.layers, cache, strict=True):
            x, routing = layer(x, kept, reach)
            if routing is not None:
                found.append(routing)
        return self.model.norm(x), found

    def draft(self, hidden: Tensor, following: Tensor, cache: Tensor, reach: Reach) -> Tensor:
        """The first MTP module on tokens that `step` took: their hidden [B W, H] and the tokens [B W] behind them ->
        hidden [B W, H] that predicts the ones behind those. ``cache`` is the module's own."""
        assert self.module is not None
        assert self.drafter is not None
        x = self.module.joined(hidden, self.model.embed_tokens(following).to(self.model.dtype))
        normed: Tensor = self.module.norm(self.drafter(x, cache, reach)[0])
        return normed

    def reach(self, places: Tensor, used: int, rows: int) -> Reach:
        """Of tokens that go to ``places`` [B W] of their ``rows``, which hold a sequence from its start."""
        keys = torch.arange(used, device=places.device)
        mask = torch.zeros(len(places), used, dtype=self.model.dtype, device=places.device)
        mask.masked_fill_(keys > places.unsqueeze(-1), float("-inf"))
        return Reach(rope.rotations(places, self.model.freqs), places, mask.view(rows, -1, used), used)


class Layer:
    """One block. Where ``in_fp8``, operands are rounded before they are multiplied."""

    @torch.no_grad()
    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.c, self.eps, self.scale, self.dtype = attention.c, attention.c.rms_norm_eps, attention.scale, dtype
        self.in_fp8 = attention.o_proj.fp8
        self.norms = [n.weight.detach().to(dtype) for n in (block.input_layernorm, block.post_attention_layernorm)]
        self.latent_norm = attention.kv_a_layernorm.weight.detach().to(dtype)
        self.low_rank = attention.c.q_lora_rank is not None
        if self.low_rank:
            self.query_norm = attention.q_a_layernorm.weight.detach().to(dtype)
            self.query_up = factor(dtype, attention.q_b_proj)
        self.query = factor(dtype, attention.q_a_proj if self.low_rank else attention.q_proj)
        self.compress = factor(dtype, attention.kv_a_proj_with_mqa)
        self.to_keys, self.to_values = absorbed(attention, dtype)
        self.out = factor(dtype, attention.o_proj)
        dense = mlp if isinstance(mlp, MLP) else mlp.shared_experts if mlp.shared else None
        self.dense = dense is not None
        if dense is not None:
            self.gate_up, self.down = factor(dtype, dense.gate_proj, dense.up_proj), factor(dtype, dense.down_proj)
        self.router = None if isinstance(mlp, MLP) else mlp.gate.weight.detach().float()
        if not isinstance(mlp, MLP):
            self.bias = mlp.gate.e_score_correction_bias
            self.experts_in, self.experts_out = (
                p.multiplied(dtype) for p in (mlp.experts.gate_up_proj, mlp.experts.down_proj)
            )

    def __call__(self, x: Tensor, cache: Tensor, reach: Reach) -> tuple[Tensor, Routing | None]:
        """The residual stream x [B W, H] -> the next one, and where an MoE sent it."""
        x = x + self.attended(rms_norm(x, self.norms[0], self.eps), cache, reach)
        normed = rms_norm(x, self.norms[1], self.eps)
        operand, routing, out = self.rounded(normed), None, None
        if self.router is not None:
            routing = route(F.linear(normed.float(), self.router), self.bias, self.c)
            out = self._experts(operand, routing)
        if self.dense:
            inner = swiglu(torch.mm(operand, self.gate_up))
            dense = torch.mm(self.rounded(inner), self.down)
            out = dense if out is None else out + dense
        assert out is not None
        return x + out, routing

    def attended(self, x: Tensor, cache: Tensor, reach: Reach) -> Tensor:
        """x [B W, H] -> [B W, H], against the cache and itself."""
        c, operand = self.c, self.rounded(x)
        q, new = torch.mm(operand, self.query), torch.mm(operand, self.compress)
        latent = rope.turn_tail(new, reach.turns, c.kv_lora_rank)[:, : c.kv_lora_rank]
        latent.copy_(self.rounded(rms_norm(latent, self.latent_norm, self.eps)))
        new = new.view(len(cache), -1, cache.shape[-1])
        cache.scatter_(1, reach.places.view(len(cache), -1, 1).expand_as(new), new)
        if self.low_rank:
            q = torch.mm(self.rounded(rms_norm(q, self.query_norm, self.eps)), self.query_up)
        q = q.view(len(x), c.num_attention_heads, -1)
        q = rope.turn_tail(q, reach.turns.unsqueeze(-2), c.qk_nope_head_dim)
        # [B, W heads, kv_lora_rank + rope]
        q = torch.bmm(q.transpose(0, 1), self.to_keys).transpose(0, 1).reshape(len(cache), -1, cache.shape[-1])
        keys, mask = cache[:, : reach.used], reach.mask[..., : reach.used]
        if mask.shape[1] > 1:
            mask = mask.repeat_interleave(c.num_attention_heads, 1)
        # With the cache as the left factor it is read as it lies, and only the few scores are turned.
        scores = torch.add(mask, torch.bmm(keys, q.mT).mT, alpha=self.scale)
        found = torch.bmm(scores.softmax(-1), keys[..., : c.kv_lora_rank])
        found = found.view(len(x), c.num_attention_heads, -1)
        values = torch.bmm(found.transpose(0, 1), self.to_values).transpose(0, 1)  # [B W, heads, v]
        return torch.mm(self.rounded(values.flatten(-2)), self.out)

    def rounded(self, x: Tensor) -> Tensor:
        return fp8.round_tiles(x) if self.in_fp8 else x

    def _experts(self, operand: Tensor, routing: Routing) -> Tensor:
        k = routing.indices.shape[-1]
        order, ends = by_expert(routing.indices), routing.counts.cumsum(0, dtype=torch.int32)
        gate_up = fp8.grouped_rows(to_experts(operand, order, k), self.experts_in, ends)
        weights = routing.gates.to(self.dtype).view(-1, 1).index_select(0, order)
        rows = fp8.grouped_rows(self.rounded(swiglu(gate_up, weights=weights)), self.experts_out, ends)
        return to_tokens(rows, order, k)


def factor(dtype: torch.dtype, *layers: Linear) -> Tensor:
    """The weights of layers that multiply the same operand as its right factor [K, N], so that one product does."""
    return torch.cat([layer.multiplied(dtype).T for layer in layers], 1)


def absorbed(attention: Attention, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What kv_b_proj comes to: [heads, nope + rope, kv_lora_rank + rope], which takes a query to where the cache lies
    and leaves its turned part as it is, and [heads, kv_lora_rank, v], which takes back what was attended."""
    c = attention.c
    weight = attention.kv_b_proj.multiplied(dtype).unflatten(0, (c.num_attention_heads, -1))
    up_k, up_v = weight.split([c.qk_nope_head_dim, c.v_head_dim], 1)
    to_keys = up_k.new_zeros(c.num_attention_heads, c.qk_head_dim, c.kv_lora_rank + c.qk_rope_head_dim)
    to_keys[:, : c.qk_nope_head_dim, : c.kv_lora_rank] = up_k
    to_keys[:, c.qk_nope_head_dim :, c.kv_lora_rank :] = torch.eye(c.qk_rope_head_dim)
    return to_keys, up_v.mT
