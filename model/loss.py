"""What a language model is trained with: log-probabilities of given tokens, and the pre-training loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    logits: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, temperature: float = 1.0, chunk: int = 8192
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N] FP32 of ``targets`` [N] under softmax(logits(hidden) / temperature), and the entropies
    [N] in nats (no gradient). ``hidden`` [N, H] is taken ``chunk`` rows at a time and the logits are made again in
    the backward pass, so that no more than chunk x vocabulary of them exist at once."""

    def part(rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logp = (logits(rows) / temperature).log_softmax(-1)
        entropy = -(logp.detach().exp() * logp.detach()).sum(-1)
        return logp.gather(-1, wanted.unsqueeze(-1)).squeeze(-1), entropy

    pieces = (
        [(hidden, targets)] if len(hidden) <= chunk else zip(hidden.split(chunk), targets.split(chunk), strict=True)
    )
    several = len(hidden) > chunk and torch.is_grad_enabled()
    done = [checkpoint(part, h, t, use_reentrant=False) if several else part(h, t) for h, t in pieces]
    return torch.cat([d[0] for d in done]), torch.cat([d[1] for d in done])
