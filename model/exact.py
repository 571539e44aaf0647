"""A trainer's forward pass with the numbers of the engine, to the bit.

Values come from `model.serving`: the same kernels on the same weights as the engine's. Gradients come from the modules:
a layer keeps its input alone, and its backward pass runs the layer's modules on that, with the experts that were
chosen, and differentiates them. So each gradient is taken at exactly the point where the engine was, at the cost of
activation checkpointing.
"""

# torch leaves autograd functions untyped.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model import rope
from model.config import Precision
from model.kernels import stream
from model.kernels.latent import PAGE, Places
from model.moe import Routing
from model.outgoing import Outgoing, takes
from model.parts import Part
from model.publish import made
from model.segments import Segments
from model.serving import Routes, Served, new_pool
from model.transformer import Block, Output, Transformer

LOGIT_ROWS = 4096
"""Rows whose logits exist at once."""


class Exact:
    """``served`` holds the weights in the engine's precision; `refresh` renews them from the masters. An engine that is
    given the same object is published to without moving a byte."""

    def __init__(self, model: Transformer, precision: Precision) -> None:
        self.model = model
        self.served = Served(model.c, precision, model.device)
        self.outgoing: Outgoing | None = None
        self.refresh()

    def refresh(self) -> None:
        self.served.load(self._made())

    def _made(self) -> Iterator[Part]:
        precision, out = self.served.precision, self.outgoing
        if out is None or not out.fits(precision, to_kernels=True):
            new = takes(self.model)
            out = self.outgoing = Outgoing(self.model, precision, to_kernels=True, in_turn=True) if new else None
        return made(self.model, precision) if out is None else (part for part, _ in out.made(None))

    def forward(self, tokens: Tensor, segments: Segments) -> Output:
        """As `Transformer.forward`, without what a cache keeps."""
        served, model = self.served, self.model
        places, copies = _places(segments)
        turns = rope.rotations(segments.positions, model.freqs)
        pool = new_pool(served, places.table.numel(), layers=1)[0]
        counts = served.counts()
        out = Output(F.embedding(tokens, model.embed_tokens.weight).to(served.dtype))
        for i, block in enumerate(model.blocks()):
            layer = _Layer(served, block, i, turns, segments, places, copies, pool, counts[i])
            out.hidden, scores = _Exact.apply(out.hidden, layer.value, layer.again)
            if layer.routes is not None:
                out.routing.append(layer.routing(scores))
        (out.hidden,) = _Exact.apply(out.hidden, lambda x: (served.finish(x, None),), lambda x: (model.norm(x),))
        return out

    def token_logprobs(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities FP32 [M] of ``targets`` [M] behind ``hidden`` [M, H] as the engine's draw gives them, and
        the entropies [M] in nats (no gradient)."""
        logps, entropies = [], []
        for rows, wanted in zip(hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True):

            def value(x: Tensor, wanted: Tensor = wanted) -> tuple[Tensor, ...]:
                logp, entropy = stream.token_logprobs(self.served.logits(x), wanted, temperature)
                entropies.append(entropy)
                return (logp,)

            def again(x: Tensor, wanted: Tensor = wanted) -> tuple[Tensor, ...]:
                logp = (self.model.logits(x) / temperature).log_softmax(-1)
                return (logp.gather(-1, wanted.unsqueeze(-1)).squeeze(-1),)

            logps += _Exact.apply(rows, value, again)
        return torch.cat(logps), torch.cat(entropies)


def _places(segments: Segments) -> tuple[Places, tuple[Tensor, Tensor] | None]:
    """Each sequence a row with pages of its own; what it shares with an earlier one is copied from there."""
    rows, room = len(segments.lengths), -(-segments.longest // PAGE) * PAGE
    table = torch.arange(rows * room // PAGE, dtype=torch.int32, device=segments.ids.device).view(rows, -1)
    places = Places(segments.ids.int(), segments.positions.int(), table)
    if not len(segments.copies):
        return places, None
    home = segments.ids * room + segments.positions
    target = segments.copies // segments.longest * room + segments.copies % segments.longest
    return places, (target, home[segments.copied])


class _Layer:
    """One layer on one batch: its values by `Served`, and the same again by its modules."""

    def __init__(self, served: Served, block: Block, i: int, turns: Tensor, segments: Segments, *rest: Any) -> None:
        self.served, self.block, self.i, self.turns, self.segments = served, block, i, turns, segments
        self.places, self.copies, self.pool, self.counts = rest
        self.routes: Routes | None = None

    def value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, H] -> the next stream [N, H], and the router's scores FP32 [N, E], or nothing [0]."""
        x, parts, self.routes = self.served.block(self.i, x, None, self.places, self.pool, self.counts, self.copies)
        scores = x.new_zeros(0) if self.routes is None else self.routes.scores.detach()
        return self.served.added(x, parts), scores

    def again(self, x: Tensor) -> tuple[Tensor, ...]:
        given = None if self.routes is None else self.routes.indices.long()
        out, _, routing = self.block(x, self.turns, self.segments, given)
        return (out,) if routing is None else (out, routing.scores)

    def routing(self, scores: Tensor) -> Routing:
        assert self.routes is not None
        indices = self.routes.indices.long()
        return Routing(scores, indices, self.routes.gates, self.counts[: scores.shape[-1]].long(), indices)


class _Exact(torch.autograd.Function):
    """The value of one function with the gradient of another, which is run on the same input in the backward pass and
    reaches the parameters that it uses."""

    @staticmethod
    def forward(ctx, x: Tensor, value: Callable[..., Any], again: Callable[..., Any]):
        ctx.again = again
        ctx.save_for_backward(x)
        return tuple(value(x))

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            outputs = ctx.again(x)
            torch.autograd.backward(outputs, gradients[: len(outputs)])
        return x.grad, None, None
