"""The mixture of experts: a router with group limits and a routing-only bias, shared and fine-grained experts, and
the losses and the bias update that balance them (DeepSeek-V3 report, section 2.1.2, equations 12 to 20)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig
from model.dispatch import has_loops, on_gpu
from model.linear import GroupedLinear, Linear, draw_, number, of_operand, together

ExpertLoad = dict[int, list[int]]
"""Tokens sent to each expert, by the index of the MoE layer."""


class Routing(NamedTuple):
    """Where one layer sent T tokens. ``scores`` FP32 [T, E] before the bias, ``indices`` [T, K], ``gates`` FP32
    [T, K], ``counts`` int64 [E] tokens an expert. ``own`` [T, K] is what the router itself would have chosen, where it
    was told."""

    scores: Tensor
    indices: Tensor
    gates: Tensor
    counts: Tensor
    own: Tensor


class Router(nn.Module):
    """Chooses experts by score + bias and weights them by score alone. The bias gets no gradient: it is moved after
    each optimizer step by `bias_step`. A softmax router's stays zero and out of checkpoints (DeepSeek-V2 report,
    section 2.1.2)."""

    e_score_correction_bias: Tensor

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.c = c
        self.weight = nn.Parameter(torch.empty(c.n_routed_experts, c.hidden_size))
        biased = c.scoring_func == "sigmoid"
        self.register_buffer("e_score_correction_bias", torch.zeros(c.n_routed_experts), persistent=biased)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        draw_(self.weight, self.c.initializer_range)

    def forward(self, x: Tensor, given: Tensor | None = None) -> Routing:
        """x [T, H]; logits are computed in FP32. ``given`` as for `route`."""
        return route(F.linear(x.float(), self.weight.float()), self.e_score_correction_bias, self.c, given)


def route(logits: Tensor, bias: Tensor, c: ModelConfig, given: Tensor | None = None) -> Routing:
    """logits FP32 [T, E], bias [E]. ``given`` [T, K] names the experts to use, so that a trainer can replay a sampler's
    choice (arXiv:2510.11370); rows of -1 leave it to the router. Gates are always its own."""
    scores = logits.sigmoid() if c.scoring_func == "sigmoid" else logits.softmax(-1)
    own = choose(scores.detach() + bias, c)
    indices = own if given is None else torch.where(given < 0, own, given)
    gates = scores.gather(-1, indices)
    if c.norm_topk_prob:
        gates = gates / gates.sum(-1, keepdim=True).add_(number(1e-20))
    if c.routed_scaling_factor != 1:
        gates = gates * c.routed_scaling_factor
    counts = counted(indices, c.n_routed_experts)
    return Routing(scores, indices, gates, counts, own)


def counted(indices: Tensor, experts: int) -> Tensor:
    """Tokens an expert, int64 [E]. Of few torch counts them several times as slowly on a CPU."""
    if indices.device.type == "cpu":
        return torch.from_numpy(np.bincount(indices.numpy().ravel(), minlength=experts))
    return torch.bincount(indices.flatten(), minlength=experts)


def by_expert(indices: Tensor) -> Tensor:
    """The order [T K] that puts places of indices [T, K] with the same expert together, stable."""
    if indices.device.type == "cpu":
        return torch.from_numpy(indices.numpy().ravel().astype(np.int16).argsort(kind="stable"))
    return indices.flatten().argsort(stable=True)


def choose(choice: Tensor, c: ModelConfig) -> Tensor:
    """choice FP32 [T, E], scores and bias together -> the chosen experts [T, K]."""
    if c.n_group > 1:
        grouped = choice.unflatten(-1, (c.n_group, -1))
        best = grouped.topk(c.group_best, -1).values.sum(-1).topk(c.topk_group, -1).indices
        keep = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, True)
        choice = grouped.masked_fill(~keep.unsqueeze(-1), float("-inf")).flatten(-2)
    return choice.topk(c.num_experts_per_tok, -1).indices


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, hidden: int, width: int, std: float) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, width, std)
        self.up_proj = Linear(hidden, width, std)
        self.down_proj = Linear(width, hidden, std)

    @on_gpu("mlp")
    def forward(self, x: Tensor) -> Tensor:
        return self.down(*together(x, self.gate_proj, self.up_proj))

    def of_operand(self, operand: Tensor) -> Tensor:
        """`forward` for what `GroupedLinear.operand` has rounded."""
        return self.down(*of_operand(operand, self.gate_proj, self.up_proj))

    def down(self, gate: Tensor, up: Tensor) -> Tensor:
        out: Tensor = self.down_proj(swiglu(gate, up))
        return out


class Experts(nn.Module):
    """E SwiGLU experts in two stacked weights; gate_up_proj [E, 2 I, H] holds gate over up."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        std = c.initializer_range
        self.gate_up_proj = GroupedLinear(c.n_routed_experts, c.hidden_size, 2 * c.moe_intermediate_size, std)
        self.down_proj = GroupedLinear(c.n_routed_experts, c.moe_intermediate_size, c.hidden_size, std)

    def forward(self, operand: Tensor, routing: Routing) -> Tensor:
        """gate_up_proj's operand [T, H] -> [T, H]: the gated sum of each token's experts. No token is dropped."""
        k = routing.indices.shape[-1]
        order = by_expert(routing.indices)
        counts: list[int] = routing.counts.tolist()
        gate_up = self.gate_up_proj.multiply(to_experts(operand, order, k), counts)
        # Gating the narrow side of down_proj gives the same sum as gating its output, on fewer numbers.
        weights = routing.gates.to(operand.dtype).view(-1, 1).index_select(0, order)
        return to_tokens(self.down_proj(swiglu(gate_up, weights=weights), counts), order, k)


class MoE(nn.Module):
    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(c)
        self.experts = Experts(c)
        if c.n_shared_experts:
            self.shared_experts = MLP(c.hidden_size, c.n_shared_experts * c.moe_intermediate_size, c.initializer_range)
        self.shared = c.n_shared_experts > 0

    @on_gpu("mixture")
    def forward(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x [..., H]; ``given`` as for the router."""
        flat = x.reshape(-1, x.shape[-1])
        routing = self.gate(flat, given)
        operand = self.experts.gate_up_proj.operand(flat)
        out = self.experts(operand, routing)
        if self.shared:
            shared = self.shared_experts
            out = out + (shared(flat) if operand is flat else shared.of_operand(operand))
        return out.view_as(x), routing

    @on_gpu("mixture_onto")
    def onto(self, x: Tensor, given: Tensor | None, stream: Tensor) -> tuple[Tensor, Tensor | None, Routing]:
        """`forward`, added to ``stream`` [..., H]; and 1 over the root of each sum's mean square, FP32 [N], which the
        next norm would have to find, where it comes with the sum."""
        out, routing = self(x, given)
        return stream + out, None, routing


def swiglu(gate: Tensor, up: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """silu(gate) * up [M, I], times ``weights`` [M, 1]. Without ``up``, ``gate`` [M, 2 I] holds both."""
    if has_loops(gate):
        from model import compiled_training

        return compiled_training.swiglu(gate, up, weights)
    if up is None:
        gate, up = gate.chunk(2, -1)
    out = F.silu(gate) * up
    return out if weights is None else out * weights


def to_experts(x: Tensor, order: Tensor, k: int) -> Tensor:
    """x [T, H] -> [T k, H]: each token's row to its k experts, row order[i] // k to place i."""
    if not torch.is_grad_enabled():
        return _to_experts(x, order, k)
    rows: Tensor = _ToExperts.apply(x, order, k)
    return rows


def to_tokens(x: Tensor, order: Tensor, k: int) -> Tensor:
    """x [T k, H] -> [T, H]: the sum of each token's k rows, which lie where `to_experts` has put them."""
    if not torch.is_grad_enabled():
        return _to_tokens(x, order, k)
    sums: Tensor = _ToTokens.apply(x, order, k)
    return sums


def _to_experts(x: Tensor, order: Tensor, k: int) -> Tensor:
    return x.index_select(0, order.div(k, rounding_mode="floor"))


def _to_tokens(x: Tensor, order: Tensor, k: int) -> Tensor:
    inverse = torch.empty_like(order).scatter_(0, order, _multiples(1, len(order), order.device))
    # Reads and adds in one pass.
    return torch.embedding_bag(x, inverse, _multiples(k, len(order), order.device))[0]


@functools.lru_cache(maxsize=4)
def _multiples(step: int, end: int, device: torch.device) -> Tensor:
    return torch.arange(0, end, step, device=device)


class _ToExperts(torch.autograd.Function):
    """The gradient of plain indexing is a scatter with collisions; this one reads the k gradients of a token and adds
    them, which is fast on a CPU and the same at every run."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, k: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.order, ctx.k = order, k
        return _to_experts(x, order, k)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return _to_tokens(dy, ctx.order, ctx.k), None, None


class _ToTokens(torch.autograd.Function):
    """The transpose of `_ToExperts`."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, k: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.order, ctx.k = order, k
        return _to_tokens(x, order, k)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return _to_experts(dy, ctx.order, ctx.k), None, None


def balance_loss(routing: Routing, segments: Tensor, experts_per_token: int) -> Tensor:
    """The auxiliary loss of equations 17 to 20 before its weight alpha: the mean over segments of
    sum_i f_i P_i, with f_i = E / (K T) times the tokens sent to expert i and P_i the mean normalised score.

    ``segments`` [T] numbers each token's sequence from 0; negative marks padding. One sequence a segment is the
    sequence-wise loss, one segment for the whole batch the batch-wise loss (section 4.5.3).
    """
    real = segments >= 0
    sequence = segments[real]
    total = int(sequence.max()) + 1 if len(sequence) else 1
    scores = routing.scores[real]
    experts = scores.shape[-1]
    chosen = torch.zeros_like(scores).scatter(-1, routing.indices[real], 1.0)
    share = scores / scores.sum(-1, keepdim=True)
    tokens = torch.bincount(sequence, minlength=total).clamp_min(1).unsqueeze(-1)
    pick = F.one_hot(sequence, total).to(scores.dtype).T
    f = pick @ chosen * (experts / (experts_per_token * tokens))
    p = pick @ share / tokens
    return (f * p).sum(-1).mean()


def bias_step(biases: Sequence[Tensor], counts: Tensor, gamma: float) -> None:
    """Moves each layer's routing bias [E] in place by gamma towards the experts that had fewer tokens than the mean
    (arXiv:2408.15664), from the counts [layers, E] of the whole batch."""
    load = counts.float()
    moves = gamma * torch.sign(load.mean(-1, keepdim=True) - load)
    for bias, move in zip(biases, moves, strict=True):
        bias.add_(move)


def max_violation(counts: Tensor) -> Tensor:
    """MaxVio (arXiv:2408.15664) of counts [..., E]: the busiest expert's load over the mean load, minus 1."""
    load = counts.float()
    return load.amax(-1) / load.mean(-1).clamp_min(1e-9) - 1
