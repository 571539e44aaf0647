"""One training step: groups become micro-batches, micro-batches become gradients, gradients become an update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from model.moe import Routing, balance_loss
from model.policy import Forward, Policy
from model.ranks import Alone
from rl.batch import Aggregation, MicroBatch, pack
from rl.loss import LossSettings, TokenLoss, grpo_loss
from rl.rollout import Group

Metrics = dict[str, float]


@dataclass(frozen=True)
class StepSettings:
    """``micro_batch_tokens`` bounds memory and changes nothing else. ``minibatches`` is the number of optimizer
    updates a step. ``balance`` weighs the sequence-wise auxiliary loss. ``reference_every`` is in steps.
    ``replay_routes`` sends each token to the experts that the engine used, where it told them (arXiv:2510.11370)."""

    loss: LossSettings = field(default_factory=LossSettings)
    micro_batch_tokens: int = 8192
    minibatches: int = 1
    aggregation: Aggregation = "token"
    balance: float = 0.0
    reference_every: int = 400
    temperature: float = 1.0
    replay_routes: bool = False


def step(policy: Policy, groups: Sequence[Group], settings: StepSettings) -> Metrics:
    """Trains on the groups and reports. Groups without any sample to train on leave the policy as it is. Where several
    processes train, each is given all groups, takes its part of them, and reports on all."""
    if settings.loss.kl > 0 and policy.reference is None:
        policy.replace_reference()
    packed = pack(
        groups,
        max_tokens=settings.micro_batch_tokens,
        minibatches=settings.minibatches,
        by=settings.aggregation,
        rank=policy.ranks.rank,
        ranks=policy.ranks.size,
    )
    minibatches = [[micro.to(policy.model.device) for micro in mini] for mini in packed]
    with torch.no_grad():
        starts = [[_forward(policy, m, settings).logp for m in mini] for mini in minibatches[1:]]
    tally = _Tally()
    for i, mini in enumerate(minibatches):
        for j, micro in enumerate(mini):
            out = _forward(policy, micro, settings)
            start = starts[i - 1][j] if i else None
            parts = grpo_loss(
                out.logp, start, micro.sampled, _reference(policy, micro, settings), micro.advantages, micro.weights,
                micro.sequences, settings.loss,
            )  # fmt: skip
            policy.backward(parts.loss + _balance(out, micro, settings, policy), out.routing)
            tally.add(micro, out, parts, policy.updates)
        tally.update(policy.apply())
    return tally.metrics(policy.ranks)


def _forward(policy: Policy, micro: MicroBatch, settings: StepSettings) -> Forward:
    routes = micro.routes if settings.replay_routes else None
    return policy.forward(micro.tokens, micro.segments, micro.at, micro.targets, settings.temperature, routes)


def _reference(policy: Policy, micro: MicroBatch, settings: StepSettings) -> Tensor | None:
    if settings.loss.kl == 0:
        return None
    return policy.reference_logprobs(micro.tokens, micro.segments, micro.at, micro.targets, settings.temperature)


def _balance(out: Forward, micro: MicroBatch, settings: StepSettings, policy: Policy) -> Tensor | float:
    if settings.balance == 0:
        return 0.0
    losses = [balance_loss(r, micro.segments.ids, policy.model.c.num_experts_per_tok) for r in out.routing]
    # Each micro-batch counts by its share of the step's tokens, so that splitting does not change the sum.
    return settings.balance * float(micro.weights.sum()) * torch.stack(losses).sum()


def routes_differ(routing: Sequence[Routing], routes: Tensor) -> tuple[int, int]:
    """Of N tokens: how many have known routes [N, MoE layers, K], and for how many of these the policy's own routers
    would choose another set of experts in some layer."""
    known = routes[:, 0, 0] >= 0
    own = torch.stack([layer.own for layer in routing], 1).sort(-1).values[known]
    theirs = routes.to(own.device, own.dtype).sort(-1).values[known]
    return int(known.sum()), int((own != theirs).flatten(1).any(-1).sum())


class _Sampled(NamedTuple):
    """Of sampled tokens [M] FP32, and their loss."""

    entropy: Tensor
    kl: Tensor
    clip_share: Tensor
    importance: Tensor
    logprob_gap: Tensor
    sampler_kl: Tensor
    sampler_kl_k3: Tensor
    importance_left_out: Tensor
    lag: Tensor
    loss: Tensor


class _Tally:
    """Means over the step's sampled tokens, and maxima where a mean would hide the trouble."""

    def __init__(self) -> None:
        self.tokens = self.routed = self.rerouted = 0
        self.sums = dict.fromkeys(_Sampled._fields, 0.0)
        self.largest_gap = self.largest_lag = 0.0
        self.updates: list[dict[str, float]] = []

    def add(self, micro: MicroBatch, out: Forward, parts: TokenLoss, version: int) -> None:
        logp = out.logp.detach()
        gap = (logp - micro.sampled).abs()
        lag = version - micro.versions
        self.tokens += len(logp)
        values = _Sampled(
            entropy=out.entropy,
            kl=parts.kl,
            clip_share=parts.clipped,
            importance=parts.importance,
            logprob_gap=gap,
            sampler_kl=micro.sampled - logp,
            sampler_kl_k3=(logp - micro.sampled).exp() - (logp - micro.sampled) - 1,
            importance_left_out=(parts.importance == 0).float(),
            lag=lag.float(),
            loss=parts.loss.detach(),
        )
        found = torch.stack([gap.max(), lag.max(), *(value.sum() for value in values)])
        gap_here, lag_here, *sums = found.tolist()  # a GPU is waited for once
        self.largest_gap, self.largest_lag = max(self.largest_gap, gap_here), max(self.largest_lag, lag_here)
        for name, total in zip(self.sums, sums, strict=True):
            self.sums[name] += total
        if micro.routes is not None:
            known, differ = routes_differ(out.routing, micro.routes)
            self.routed += known
            self.rerouted += differ

    def update(self, applied: dict[str, float]) -> None:
        self.updates.append(applied)

    def metrics(self, ranks: Alone) -> Metrics:
        """Of all processes."""
        if not self.updates:
            return {"tokens_trained": 0.0, "updates": 0.0}
        counts = self.tokens, self.routed, self.rerouted
        tokens, routed, rerouted, *sums = ranks.sums([*counts, *self.sums.values()])
        largest_gap, largest_lag = ranks.largest([self.largest_gap, self.largest_lag])
        totals = dict(zip(self.sums, sums, strict=True))
        loss = totals.pop("loss") / len(self.updates)
        applied = {name: math.fsum(u[name] for u in self.updates) / len(self.updates) for name in self.updates[0]}
        return {
            "loss": loss,
            **{name: total / tokens for name, total in totals.items()},
            **({"routes_differ": rerouted / routed} if routed else {}),
            **applied,
            "logprob_gap_max": largest_gap,
            "lag_max": largest_lag,
            "tokens_trained": tokens,
            "updates": float(len(self.updates)),
        }
