"""What a language model is trained with: log-probabilities of given tokens, and the pre-training loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.dispatch import on_gpu
from model.moe import Routing, balance_loss
from model.sampling import distribution
from model.segments import Segments
from model.transformer import Output, Transformer


@on_gpu("token_logprobs")
def token_logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, temperature: float = 1.0, chunk: int = 8192
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N] FP32 of ``targets`` [N] under softmax(head @ hidden / temperature), and the entropies
    [N] in nats (no gradient). ``hidden`` [N, H] is taken ``chunk`` rows at a time and the logits are made again in
    the backward pass, so that no more than chunk x vocabulary of them exist at once. ``head`` [V, H]."""

    def part(rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = F.linear(rows, head.to(rows.dtype)).float()
        chosen: tuple[Tensor, Tensor] = _Chosen.apply(logits if temperature == 1 else logits / temperature, wanted)
        return chosen

    pieces = (
        [(hidden, targets)] if len(hidden) <= chunk else zip(hidden.split(chunk), targets.split(chunk), strict=True)
    )
    several = len(hidden) > chunk and torch.is_grad_enabled()
    done = [checkpoint(part, h, t, use_reentrant=False) if several else part(h, t) for h, t in pieces]
    return torch.cat([d[0] for d in done]), torch.cat([d[1] for d in done])


class _Chosen(torch.autograd.Function):
    """Log-probabilities of ``targets`` [N] under the softmax of ``scores`` [N, V], and entropies, in one exponential of
    each score; the gradient needs no other."""

    @staticmethod
    def forward(ctx, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        probs, total = distribution(scores)
        ctx.save_for_backward(probs, targets)
        entropy = total - torch.linalg.vecdot(probs, scores)
        ctx.mark_non_differentiable(entropy)
        return scores.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - total, entropy

    @staticmethod
    def backward(ctx, d_logp: Tensor, _: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        probs, targets = ctx.saved_tensors
        d_logp = d_logp.unsqueeze(-1)
        return (probs * -d_logp).scatter_add_(-1, targets.unsqueeze(-1), d_logp), None


class PretrainLoss(NamedTuple):
    """``total`` is what is minimised; ``next_token`` and ``further`` (multi-token prediction) are means in nats."""

    total: Tensor
    next_token: Tensor
    further: Tensor | None
    routing: list[Routing]


def pretrain_loss(
    wrapped: Callable[[Tensor, Segments], Output],
    model: Transformer,
    tokens: Tensor,
    segments: Segments,
    *,
    mtp_weight: float = 0.0,
    balance: float = 0.0,
    balance_over: Literal["sequence", "batch"] = "sequence",
) -> PretrainLoss:
    """Next-token prediction within each segment, plus ``mtp_weight`` times the mean over MTP depths of their loss
    (report, equation 25), plus ``balance`` times the auxiliary balance loss of every router."""
    out = wrapped(tokens, segments)
    lengths = torch.tensor(segments.lengths, device=tokens.device)[segments.ids]
    inside = segments.positions + 1 < lengths
    next_token = _mean_loss(model, out.hidden, tokens, inside, 1)
    total = next_token
    further = None
    if mtp_weight and model.mtp:
        chain = model.mtp_hidden(out, tokens, segments)
        further = torch.stack(
            [_mean_loss(model, hidden, tokens, mask, depth + 1) for depth, (hidden, mask) in enumerate(chain, 1)]
        ).mean()
        total = total + mtp_weight * further
    if balance:
        ids = segments.ids if balance_over == "sequence" else torch.zeros_like(segments.ids)
        k = model.c.num_experts_per_tok
        total = total + balance * torch.stack([balance_loss(r, ids, k) for r in out.routing]).sum()
    return PretrainLoss(total, next_token, further, out.routing)


def _mean_loss(model: Transformer, hidden: Tensor, tokens: Tensor, mask: Tensor, ahead: int) -> Tensor:
    logp, _ = token_logprobs(hidden[mask], model.head.weight, tokens.roll(-ahead)[mask])
    return -logp.mean()
