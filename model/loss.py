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
        chosen: tuple[Tensor, Tensor] = _Chosen.apply(rows, head, wanted, temperature)
        return chosen

    pieces = (
        [(hidden, targets)] if len(hidden) <= chunk else zip(hidden.split(chunk), targets.split(chunk), strict=True)
    )
    several = len(hidden) > chunk and torch.is_grad_enabled()
    done = [checkpoint(part, h, t, use_reentrant=False) if several else part(h, t) for h, t in pieces]
    return torch.cat([d[0] for d in done]), torch.cat([d[1] for d in done])


class _Chosen(torch.autograd.Function):
    """`token_logprobs` of one chunk. With p the distribution [N, V], q = p head [N, H] is what the chosen rows of head
    are set against in the gradient of ``hidden``, and <hidden, q> is the mean score, which the entropy needs: no matrix
    [N, V] is passed over but by the softmax and by products."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        scores = F.linear(hidden, head.to(hidden.dtype)).float()
        if temperature != 1:
            scores = scores.div_(temperature)
        probs, total = distribution(scores)
        rows, weight = hidden.float(), head.to(hidden.dtype).float()
        mean = probs @ weight
        ctx.save_for_backward(rows, weight, targets, probs, mean)
        ctx.temperature, ctx.dtypes = temperature, (hidden.dtype, head.dtype)
        entropy = total - torch.linalg.vecdot(rows, mean) / temperature
        ctx.mark_non_differentiable(entropy)
        return scores.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - total, entropy

    @staticmethod
    def backward(ctx, d_logp: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[no-untyped-def]
        rows, weight, targets, probs, mean = ctx.saved_tensors
        d = d_logp.unsqueeze(-1) / ctx.temperature
        d_hidden = weight.index_select(0, targets).sub_(mean).mul_(d)
        rows = rows * d
        d_head = torch.mm(probs.T, rows).neg_().index_add_(0, targets, rows)
        return d_hidden.to(ctx.dtypes[0]), d_head.to(ctx.dtypes[1]), None, None


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
