"""The GRPO loss, token by token.

Sources: clipping and the group baseline from DeepSeekMath (arXiv:2402.03300, equations 3 and 4, with the KL estimator
k3 of http://joschu.net/blog/kl-approx.html); clip-higher and the token-level mean from DAPO (arXiv:2503.14476);
truncated importance sampling between sampler and trainer as in decoupled PPO (arXiv:2110.00641), and leaving out what
lies beyond its bounds as in IcePop (https://ringtech.notion.site/icepop).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossSettings:
    """``clip_low`` and ``clip_high`` bound the ratio to 1 - low and 1 + high; ``kl`` weighs the divergence from the
    reference (0: no reference is kept).

    The weight that corrects for the sampler is each token's ratio of probabilities or, over "sequence", their product.
    ``importance_cap`` bounds it (truncated importance sampling) or, with ``importance_mask``, leaves out what lies
    above; what lies below ``importance_floor`` is always left out."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    kl: float = 0.001
    importance: Literal["token", "sequence"] = "token"
    importance_cap: float = 2.0
    importance_floor: float = 0.0
    importance_mask: bool = False


class TokenLoss(NamedTuple):
    """``loss`` is a scalar: the weighted sum. The others are per token [M] and carry no gradient."""

    loss: Tensor
    clipped: Tensor
    importance: Tensor
    kl: Tensor


def grpo_loss(
    logp: Tensor,
    start: Tensor | None,
    sampled: Tensor,
    reference: Tensor | None,
    advantages: Tensor,
    weights: Tensor,
    sequences: Tensor,
    settings: LossSettings,
) -> TokenLoss:
    """All tensors are [M] FP32, one entry a sampled token.

    ``logp``: under the policy being updated. ``start``: under the policy as the step began (None when this is its
    only update: the ratio is then 1 and only its gradient counts). ``sampled``: as recorded by the engine.
    ``weights``: what each token counts in the mean; they sum to 1 over the whole batch, across ranks and
    micro-batches, so how it was split cannot matter. ``sequences`` int64 [M] numbers each token's completion from 0.
    """
    old = logp.detach() if start is None else start
    ratio = (logp - old).exp()
    bounded = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    gain = torch.minimum(ratio * advantages, bounded * advantages)
    importance = importance_weights(old - sampled, sequences, settings)
    per_token = -importance * gain
    divergence = torch.zeros_like(logp)
    if reference is not None and settings.kl > 0:
        divergence = (reference - logp).exp() - (reference - logp) - 1
        per_token = per_token + settings.kl * divergence
    clipped = ((ratio * advantages) > (bounded * advantages)).float().detach()
    return TokenLoss((per_token * weights).sum(), clipped, importance.detach(), divergence.detach())


def importance_weights(gap: Tensor, sequences: Tensor, settings: LossSettings) -> Tensor:
    """What each token counts, [M], since another distribution sampled it: ``gap`` [M] is its log-probability under the
    policy less that under the sampler."""
    if settings.importance == "sequence" and len(gap):
        sums = gap.new_zeros(int(sequences.max()) + 1).index_add_(0, sequences, gap)
        gap = sums[sequences]
    weight = gap.exp()
    kept = weight >= settings.importance_floor
    if settings.importance_mask:
        kept &= weight <= settings.importance_cap
    return weight.clamp(max=settings.importance_cap).where(kept, torch.zeros_like(weight))
