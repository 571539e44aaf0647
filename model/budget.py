"""What a model costs by arithmetic: parameters, bytes, floating-point operations and seconds, by component. Nothing is
built and nothing is run; tests hold the counts against what the modules really allocate, keep and multiply."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cache

import torch

from model import fp8
from model.config import ModelConfig, Precision
from model.linear import GroupedLinear
from model.transformer import Transformer


@dataclass(frozen=True)
class Component:
    """``parameters`` in all, and the ``multiplied`` ones among them: those that each token is multiplied with."""

    name: str
    parameters: int
    multiplied: int


COMPONENTS = (
    ("embedding", r"embed_tokens\."),
    ("head", r"lm_head\."),
    ("multi-token prediction", r"mtp\."),
    ("norms", r".*norm\.weight$"),
    ("attention", r"layers\.\d+\.self_attn\."),
    ("router", r"layers\.\d+\.mlp\.gate\."),
    ("routed experts", r"layers\.\d+\.mlp\.experts\."),
    ("shared experts", r"layers\.\d+\.mlp\.shared_experts\."),
    ("dense layers", r"layers\.\d+\.mlp\."),
)
"""What a tensor belongs to: the first that matches its name."""


@cache
def components(c: ModelConfig) -> tuple[Component, ...]:
    found: dict[str, list[int]] = {name: [0, 0] for name, _ in COMPONENTS}
    with torch.device("meta"):
        state = Transformer(c).state_dict()
    for name, tensor in state.items():
        owner = next(owner for owner, pattern in COMPONENTS if re.match(pattern, name))
        found[owner][0] += tensor.numel()
        if tensor.ndim > 1 and owner not in ("embedding", "multi-token prediction"):
            share = c.num_experts_per_tok / c.n_routed_experts if owner == "routed experts" else 1
            found[owner][1] += round(tensor.numel() * share)
    return tuple(Component(name, *counts) for name, counts in found.items() if counts[0])


def forward_flops(c: ModelConfig, tokens: int, context: float) -> dict[str, float]:
    """Of one forward pass over ``tokens`` tokens that see ``context`` tokens each on average, without MTP: two a
    multiplied parameter, and attention's two products over the context."""
    products = {each.name: 2.0 * each.multiplied * tokens for each in components(c) if each.multiplied}
    heads = c.num_hidden_layers * c.num_attention_heads
    products["attention over the context"] = 2.0 * heads * (c.qk_head_dim + c.v_head_dim) * context * tokens
    return products


def cache_bytes(c: ModelConfig, rows: int, context: int, width: int) -> int:
    """The engine's: a latent and a rotated key a token and layer, of numbers of ``width`` bytes."""
    return rows * context * c.num_hidden_layers * (c.kv_lora_rank + c.qk_rope_head_dim) * width


def activation_bytes(c: ModelConfig, tokens: int, width: int, *, on_cpu: bool = False) -> dict[str, int]:
    """What the backward pass keeps of a forward pass over ``tokens`` tokens. On a CPU attention keeps what it is given
    and not keys by themselves (`model.loops.attention`). Logits are made 8192 rows at a time (`model/loss.py`), or on a
    GPU, where each takes 2 bytes and not 8, more."""
    dense, sparse = c.first_k_dense_replace, c.num_hidden_layers - c.first_k_dense_replace
    latents = 2 * (c.q_lora_rank or 0) + 2 * c.kv_lora_rank + c.qk_rope_head_dim
    keys = c.qk_nope_head_dim + 1 if on_cpu else c.qk_head_dim
    heads = c.num_attention_heads * (c.qk_head_dim + keys + 2 * c.v_head_dim)
    routed = c.num_experts_per_tok * (c.hidden_size + 3 * c.moe_intermediate_size) + c.n_routed_experts
    numbers = {
        "residual stream and norms": (4 * c.num_hidden_layers + 1) * c.hidden_size,
        "attention": c.num_hidden_layers * (latents + heads),
        "dense layers": dense * 3 * c.intermediate_size,
        "experts": sparse * (routed + 3 * c.n_shared_experts * c.moe_intermediate_size),
    }
    sizes = {name: each * tokens * width for name, each in numbers.items()}
    return {**sizes, "logits": 2 * min(tokens, 8192) * c.vocab_size * 4}


def recomputed_bytes(c: ModelConfig, tokens: int, width: int, *, on_cpu: bool = False) -> dict[str, int]:
    """`activation_bytes` where only each layer's input is kept, and one layer at a time is computed again."""
    layers = (1,) if c.first_k_dense_replace == c.num_hidden_layers else (0, 1) if c.first_k_dense_replace else (0,)
    alone = [
        activation_bytes(replace(c, num_hidden_layers=1, first_k_dense_replace=dense), tokens, width, on_cpu=on_cpu)
        for dense in layers
    ]
    largest = max(sum(each.values()) - each["logits"] for each in alone)
    inputs = c.num_hidden_layers * c.hidden_size * tokens * width
    return {"layers' inputs": inputs, "one layer": largest, "logits": alone[0]["logits"]}


@cache
def weight_bytes(c: ModelConfig, precision: Precision) -> int:
    """Published weights, MTP included: projections in ``precision``, FP8 ones with a scale a block; the rest FP32."""
    with torch.device("meta"):
        model = Transformer(c)
    projections: int = sum(m.weight.numel() for m in model.modules() if isinstance(m, GroupedLinear))
    rest: int = sum(tensor.numel() for tensor in model.state_dict().values()) - projections
    each = {"fp32": 4.0, "bf16": 2.0, "fp8": 1 + 4 / fp8.BLOCK**2}[precision]
    return round(projections * each + rest * 4)


@dataclass(frozen=True)
class Hardware:
    """``flops`` a second by precision and ``bandwidth`` and ``memory`` in bytes, of one device."""

    name: str
    flops: dict[Precision, float]
    bandwidth: float
    memory: float


HARDWARE = {
    "h100": Hardware("H100 SXM", {"fp32": 67e12, "bf16": 989e12, "fp8": 1979e12}, 3.35e12, 80e9),
    "h200": Hardware("H200", {"fp32": 67e12, "bf16": 989e12, "fp8": 1979e12}, 4.8e12, 141e9),
}
"""Dense limits as the vendor gives them."""


def experts_touched(c: ModelConfig, tokens: int) -> float:
    """How many of a layer's experts ``tokens`` tokens reach between them, were every choice as likely."""
    return c.n_routed_experts * (1 - (1 - c.num_experts_per_tok / c.n_routed_experts) ** tokens)


def decode_seconds(
    c: ModelConfig, at: Hardware, precision: Precision, rows: int, steps: int, context: float, efficiency: float
) -> float:
    """Of ``steps`` decoding steps of ``rows`` rows, without drafts: the larger of what the products and what reading
    weights and cache take. The cache is 2 bytes a number, 4 in fp32."""
    c = replace(c, num_nextn_predict_layers=0)
    flops = math.fsum(forward_flops(c, rows, 0).values())
    latent = 2 * c.kv_lora_rank + c.qk_rope_head_dim
    flops += 2.0 * rows * c.num_hidden_layers * c.num_attention_heads * latent * context
    routed = next((each.parameters for each in components(c) if each.name == "routed experts"), 0)
    share = weight_bytes(c, precision) / sum(each.parameters for each in components(c))
    untouched = routed * (1 - experts_touched(c, rows) / c.n_routed_experts) * share
    cache = cache_bytes(c, rows, 1, 4 if precision == "fp32" else 2) * context
    moved = weight_bytes(c, precision) - untouched + cache
    return steps * max(flops / at.flops[precision], moved / at.bandwidth) / efficiency
