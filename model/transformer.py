"""The DeepSeek-V3 transformer and its multi-token-prediction modules (technical report, sections 2.1 and 2.2).

Module names follow the published checkpoints, so that a state dict differs from one only in how experts are stacked.
The file reads as if there were one device; parallelism wraps the model from outside (`model/policy.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model import rope
from model.attention import Attention
from model.config import ModelConfig, Precision
from model.dispatch import on_gpu
from model.linear import RMSNorm, add_norm, compute_dtype, set_precision
from model.moe import MLP, MoE, Router, Routing
from model.segments import Segments


@dataclass
class Output:
    """``hidden`` [N, H] after the final norm. ``routing`` holds each MoE layer's, in order. ``cached`` holds each
    layer's [N, kv_lora_rank + rope] for a KV cache, where no gradient is wanted."""

    hidden: Tensor
    routing: list[Routing] = field(default_factory=list)
    cached: list[Tensor] = field(default_factory=list)


class Stream(NamedTuple):
    """The residual stream [N, H], as a sum of x and ``more`` that is not formed yet, or formed with ``inverse``, where
    `MoE.onto` gave it."""

    x: Tensor
    more: Tensor | None = None
    inverse: Tensor | None = None


class Block(nn.Module):
    def __init__(self, c: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        dense = layer < c.first_k_dense_replace
        self.mlp: MLP | MoE = MLP(c.hidden_size, c.intermediate_size, c.initializer_range) if dense else MoE(c)

    def forward(
        self, x: Tensor, turns: Tensor, segments: Segments, given: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Routing | None]:
        """x [N, H], ``given`` [N, K] experts to use -> the next residual stream, the layer's cache entries (None in
        training), its routing."""
        (x, more, _), cached, routing = self.unsummed(Stream(x), turns, segments, given)
        return x if more is None else x + more, cached, routing

    def unsummed(
        self, stream: Stream, turns: Tensor, segments: Segments, given: Tensor | None = None
    ) -> tuple[Stream, Tensor | None, Routing | None]:
        """`forward` of a residual stream, before and after, that the next norm sums."""
        x, attended, cached = self.attend(*stream, turns, segments)
        x, normed = add_norm(x, attended, self.post_attention_layernorm)
        if isinstance(self.mlp, MLP):
            return Stream(x, self.mlp(normed)), cached, None
        x, inverse, routing = self.mlp.onto(normed, given, x)
        return Stream(x, None, inverse), cached, routing

    @on_gpu("normed_attention")
    def attend(
        self, x: Tensor, more: Tensor | None, inverse: Tensor | None, turns: Tensor, segments: Segments
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The sum of a stream, and what attention makes of its norm."""
        x, normed = add_norm(x, more, self.input_layernorm)
        return x, *self.self_attn(normed, turns, segments)


class MTP(nn.Module):
    """Predicts one token further than what it is given (report, equations 21 to 23). The concatenation is
    [norm(embedding), norm(hidden)], as published checkpoints and loaders have it: the reverse of the report's text."""

    def __init__(self, c: ModelConfig, layer: int) -> None:
        super().__init__()
        self.enorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.hnorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * c.hidden_size, c.hidden_size, bias=False)
        nn.init.normal_(self.eh_proj.weight, std=c.initializer_range)
        self.block = Block(c, layer)
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, hidden: Tensor, embedded: Tensor, turns: Tensor, segments: Segments) -> tuple[Tensor, Routing]:
        """hidden [N, H] of tokens i and embedded [N, H] of tokens i+1 -> normed hidden [N, H] that predicts i+2."""
        x, _, routing = self.block(self.joined(hidden, embedded), turns, segments)
        assert routing is not None
        return self.norm(x), routing

    def joined(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """What the block is given."""
        both = torch.cat([self.enorm(embedded), self.hnorm(hidden)], -1)
        return F.linear(both, self.eh_proj.weight.to(both.dtype))


class Transformer(nn.Module):
    """Embedding, blocks, final norm, output head, MTP modules. ``precision`` is set by `use`."""

    freqs: Tensor

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=c.initializer_range)
        self.layers = nn.ModuleList(Block(c, i) for i in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        nn.init.normal_(self.lm_head.weight, std=c.initializer_range)
        self.mtp = nn.ModuleList(MTP(c, c.num_hidden_layers + i) for i in range(c.num_nextn_predict_layers))
        self.register_buffer("freqs", rope.frequencies(c), persistent=False)
        self.dtype = torch.float32
        self.recompute = False

    def use(self, precision: Precision, *, recompute: bool = False) -> Transformer:
        """Sets the precision of every layer; ``recompute`` keeps only each block's input for the backward pass."""
        set_precision(self, precision)
        self.dtype = compute_dtype(precision, self.embed_tokens.weight.device)
        self.recompute = recompute
        return self

    def forward(self, tokens: Tensor, segments: Segments, routes: Tensor | None = None) -> Output:
        """tokens [N] int64. ``routes`` int64 [N, MoE layers, K], where given, are the experts to use; -1 leaves a
        token to the router."""
        out = Output(self.embed_tokens(tokens).to(self.dtype))
        stream = Stream(out.hidden)
        turns = rope.rotations(segments.positions, self.freqs)
        for layer in self.blocks():
            given = None if routes is None or isinstance(layer.mlp, MLP) else routes[:, len(out.routing)]
            if self.recompute and torch.is_grad_enabled():
                x, cached, routing = checkpoint(layer, stream.x, turns, segments, given, use_reentrant=False)
                stream = Stream(x)
            else:
                stream, cached, routing = layer.unsummed(stream, turns, segments, given)
            if cached is not None:
                out.cached.append(cached)
            if routing is not None:
                out.routing.append(routing)
        out.hidden = add_norm(stream.x, stream.more, self.norm)[1]
        return out

    def mtp_hidden(self, out: Output, tokens: Tensor, segments: Segments) -> list[tuple[Tensor, Tensor]]:
        """The MTP modules' full causal chain. For each depth k = 1, 2, ...: hidden [N, H], which at token i predicts
        token i+1+k, and a mask [N] of the tokens whose prediction lies in their own segment. Appends their routing to
        ``out.routing``."""
        chain: list[tuple[Tensor, Tensor]] = []
        hidden, turns = out.hidden, rope.rotations(segments.positions, self.freqs)
        lengths = torch.tensor(segments.lengths, device=tokens.device)[segments.ids]
        for depth, module in enumerate(self.mtp, 1):
            following = torch.roll(tokens, -depth)
            hidden, routing = module(hidden, self.embed_tokens(following).to(self.dtype), turns, segments)
            out.routing.append(routing)
            chain.append((hidden, segments.positions + depth + 1 < lengths))
        return chain

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., H] -> FP32 logits [..., V]."""
        return F.linear(hidden, self.lm_head.weight.to(hidden.dtype)).float()

    @property
    def head(self) -> nn.Linear:
        return self.lm_head

    def blocks(self) -> list[Block]:
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def routers(self) -> list[Router]:
        """Every layer's router, in the order of `Output.routing` after `mtp_hidden`."""
        return [module for module in self.modules() if isinstance(module, Router)]

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device


def build(config: ModelConfig, seed: int) -> Transformer:
    """A model with freshly drawn FP32 weights; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(config)


def allocate(config: ModelConfig) -> Transformer:
    """A model whose weights have their place in memory and no value yet."""
    with torch.device("meta"):
        model = Transformer(config)
    model.to_empty(device="cpu")
    model.freqs = rope.frequencies(config)
    for router in model.routers():
        router.e_score_correction_bias.zero_()
    return model
