"""Multi-head latent attention (DeepSeek-V2 report, section 2.1; V3 report, section 2.1.1).

Keys and values are expanded from a latent of ``kv_lora_rank`` numbers a token; one rotated key of
``qk_rope_head_dim`` numbers is shared by all heads. A cache holds just these two (`model.decoding`): the latent as
kv_b_proj is given it (rounded to FP8 tiles when the layer is in fp8) and the rotated key.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model import fp8, rope
from model.config import ModelConfig
from model.dispatch import has_loops, on_gpu
from model.linear import Linear, RMSNorm, together
from model.segments import Segments, attention


@on_gpu("keys_and_values")
def keys_and_values(expanded: Tensor, shared: Tensor, nope: int) -> tuple[Tensor, Tensor]:
    """``expanded`` [N, heads, nope + v] and the ``shared`` key [N, rope] -> keys [N, heads, nope + rope], values."""
    k_nope, v = expanded.split([nope, expanded.shape[-1] - nope], -1)
    return torch.cat([k_nope, shared.unsqueeze(-2).expand(-1, expanded.shape[1], -1)], -1), v


class Attention(nn.Module):
    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.c = c
        self.scale = rope.softmax_scale(c)
        heads, std = c.num_attention_heads, c.initializer_range
        if c.q_lora_rank is None:
            self.q_proj = Linear(c.hidden_size, heads * c.qk_head_dim, std)
        else:
            self.q_a_proj = Linear(c.hidden_size, c.q_lora_rank, std)
            self.q_a_layernorm = RMSNorm(c.q_lora_rank, c.rms_norm_eps)
            self.q_b_proj = Linear(c.q_lora_rank, heads * c.qk_head_dim, std)
        self.kv_a_proj_with_mqa = Linear(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim, std)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, c.rms_norm_eps)
        self.kv_b_proj = Linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim), std)
        self.o_proj = Linear(heads * c.v_head_dim, c.hidden_size, std)

    def project(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [N, H] -> the normed latents of queries [N, q_lora_rank], or the queries [N, heads (nope + rope)] where
        they have none, and of keys and values [N, kv_lora_rank], and the turned shared key [N, rope]."""
        if self.c.q_lora_rank is not None:
            return self.latents(x, turns)
        q, compressed = together(x, self.q_proj, self.kv_a_proj_with_mqa)
        return q, *self.latent_and_key(compressed, turns)

    def queries(self, q: Tensor) -> Tensor:
        """What `project` gives -> queries [N, heads (nope + rope)], not turned by their positions yet."""
        return q if self.c.q_lora_rank is None else self.q_b_proj(q)

    def turned(self, q: Tensor, turns: Tensor) -> Tensor:
        """Queries -> [N, heads, nope + rope], turned."""
        q = q.unflatten(-1, (self.c.num_attention_heads, -1))
        return rope.rotate_tail(q, turns.unsqueeze(-2), self.c.qk_nope_head_dim)

    @on_gpu("latents")
    def latents(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`project` where queries have latents."""
        q, compressed = together(x, self.q_a_proj, self.kv_a_proj_with_mqa)
        return self.q_a_layernorm(q), *self.latent_and_key(compressed, turns)

    def latent_and_key(self, compressed: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        c = self.c
        turned = rope.rotate_tail(compressed, turns, c.kv_lora_rank)
        latent, key = turned.split([c.kv_lora_rank, c.qk_rope_head_dim], -1)
        return self.kv_a_layernorm(latent), key

    def forward(self, x: Tensor, turns: Tensor, segments: Segments) -> tuple[Tensor, Tensor | None]:
        """Attention within each segment. x [N, H] -> the output [N, H] and, where no gradient is wanted, what a cache
        keeps of each token, [N, kv_lora_rank + rope]."""
        q, latent, k_rope = self.project(x, turns)
        out = self.attend(q, latent, k_rope, turns, segments)
        cached = None if torch.is_grad_enabled() else torch.cat([self.as_cached(latent), k_rope], -1)
        return self.o_proj(out), cached

    @on_gpu("attend")
    def attend(self, q: Tensor, latent: Tensor, key: Tensor, turns: Tensor, segments: Segments) -> Tensor:
        """What `project` gives -> [N, heads v]."""
        expanded = self.kv_b_proj(latent)
        if has_loops(q):
            from model import compiled_training

            heads = self.c.num_attention_heads
            return compiled_training.attend(self.queries(q), expanded, key, turns, segments, heads, self.scale)
        expanded = expanded.unflatten(-1, (self.c.num_attention_heads, -1))
        k, v = keys_and_values(expanded, key, self.c.qk_nope_head_dim)
        return attention(self.turned(self.queries(q), turns), k, v, segments, self.scale).flatten(-2)

    def as_cached(self, latent: Tensor) -> Tensor:
        """The latent as kv_b_proj multiplies it."""
        return fp8.round_tiles(latent) if self.kv_b_proj.fp8 else latent
