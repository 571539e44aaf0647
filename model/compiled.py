"""Decoding in FP32 on a CPU with compiled loops.

A step has a token a row, and of an operator that short a CPU has more time for finding it than for what it does: its
code is pushed out of the caches by the weights and the KV cache that every step reads. So a layer is products, which
are torch's, and a few loops of `model.loops` between them. `CompiledLayer` computes what `decoding.Layer` does.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from model import fp8
from model.decoding import Layer, Reach
from model.loops import decoding as loops
from model.loops import training
from model.loops.common import f4, u4
from model.loops.threads import shared_out
from model.moe import Routing
from model.sampling import BELOW_1, hashes
from model.transformer import Block

NO_NUMBERS, NO_ORDER = np.empty(0, f4), np.empty(0, np.int64)


def raced(logits: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """`sampling.draw` from all tokens."""
    rows, width = logits.shape
    tokens, logprobs = torch.empty(rows, dtype=torch.int64), logits.new_empty(rows)
    places = hashes(width, logits.device).numpy().view(u4)
    given = logits.numpy(), f4(1 / temperature), keys.contiguous().numpy(), places, f4(BELOW_1)
    there = tokens.numpy(), logprobs.numpy()
    shared_out(loops.race, rows, 32 * rows * width, *given, *there)
    return tokens, logprobs


class Room:
    """What a layer writes for ``rows`` tokens: tensors ``t`` for products, and the same memory as arrays ``a``."""

    def __init__(self, rows: int, **shapes: tuple[int, ...]) -> None:
        whole = {"ends": torch.int32, **dict.fromkeys(("indices", "counts", "place", "order"), torch.int64)}
        tensors = {name: torch.empty(shape, dtype=whole.get(name, torch.float32)) for name, shape in shapes.items()}
        self.rows, self.t = rows, SimpleNamespace(**tensors)
        self.a = SimpleNamespace(**{name: tensor.numpy() for name, tensor in tensors.items()})


class CompiledLayer(Layer):
    """What its routing holds is the layer's own, and changes with the next step."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        super().__init__(block, dtype)
        self.both = torch.cat([self.query, self.compress], 1)
        self.weights = SimpleNamespace(
            input=self.norms[0].numpy(), post=self.norms[1].numpy(), latent=self.latent_norm.numpy(),
            to_keys=self.to_keys.numpy(), to_values=self.to_values.contiguous().numpy(),
            query=self.query_norm.numpy() if self.low_rank else None,
        )  # fmt: skip
        if self.router is not None:
            self.weights.router, self.weights.bias = self.router.numpy(), self.bias.numpy()
        self.room = Room(0)

    def __call__(self, x: Tensor, cache: Tensor, reach: Reach) -> tuple[Tensor, Routing | None]:
        if self.room.rows != len(x):
            self.room = self._room(len(x))
        t, a, given, eps = self.room.t, self.room.a, x.numpy(), f4(self.eps)
        loops.norm(given, self.weights.input, eps, self.in_fp8, a.operand)
        torch.mm(t.operand, self.both, out=t.both)
        self._attend(cache, reach)
        torch.mm(t.values, self.out, out=t.attended)
        training.norm(1, len(x), given, a.attended, self.weights.post, eps, a.total, a.inverse, a.operand)
        routing = None if self.router is None else self._route()
        loops.gather(a.operand, a.indices, a.ends, a.counts, self.in_fp8, a.place, a.sent, a.order)
        if self.dense:
            torch.mm(t.operand, self.gate_up, out=t.gate_up)
            loops.swiglu(a.gate_up, NO_NUMBERS, NO_ORDER, self.in_fp8, a.dense_inner)
            torch.mm(t.dense_inner, self.down, out=t.dense)
        rows = a.sent
        if routing is not None:
            gate_up = fp8.grouped_rows(t.sent, self.experts_in, t.ends)
            loops.swiglu(gate_up.numpy(), a.gates.ravel(), a.order, self.in_fp8, a.inner)
            rows = fp8.grouped_rows(t.inner, self.experts_out, t.ends).numpy()
        out = torch.empty_like(x)
        loops.add_rows(a.total, a.dense, rows, a.place, out.numpy())
        return out, routing

    def _attend(self, cache: Tensor, reach: Reach) -> None:
        t, a, w, eps = self.room.t, self.room.a, self.weights, f4(self.eps)
        q, at = a.both, self.query.shape[1]
        if self.low_rank:
            loops.norm(a.both, w.query, eps, self.in_fp8, a.latents)
            q = torch.mm(t.latents, self.query_up).numpy()
        given = (
            q, a.both, at, reach.turns.numpy().view(f4), w.latent, eps, self.in_fp8, w.to_keys, w.to_values,
            cache.numpy(), reach.places.numpy(), reach.used, reach.mask.numpy(), f4(self.scale), a.values,
        )  # fmt: skip
        work = 2 * len(q) * len(w.to_keys) * reach.used * cache.shape[2]
        shared_out(loops.attend, len(cache), work, *given)

    def _route(self) -> Routing:
        t, a, c, w = self.room.t, self.room.a, self.c, self.weights
        loops.route(
            a.operand, w.router, w.bias, c.scoring_func == "sigmoid", c.n_group, c.group_best, c.topk_group,
            c.norm_topk_prob, f4(c.routed_scaling_factor), a.scores, a.indices, a.gates, a.counts, a.ends,
        )  # fmt: skip
        return Routing(t.scores, t.indices, t.gates, t.counts, t.indices)

    def _room(self, rows: int) -> Room:
        c, hidden = self.c, self.out.shape[1]
        k, experts = (0, 0) if self.router is None else (c.num_experts_per_tok, c.n_routed_experts)
        dense = len(self.down) if self.dense else 0
        return Room(
            rows, operand=(rows, hidden), both=(rows, self.both.shape[1]), latents=(rows, c.q_lora_rank or 0),
            values=(rows, len(self.out)), attended=(rows, hidden), total=(rows, hidden), inverse=(rows,),
            scores=(rows, experts),
            indices=(rows, k), gates=(rows, k), counts=(experts,), ends=(experts,), place=(rows, k),
            order=(rows * k,), sent=(rows * k, hidden), inner=(rows * k, c.moe_intermediate_size),
            gate_up=(rows, 2 * dense), dense_inner=(rows, dense), dense=(rows if dense else 0, hidden),
        )  # fmt: skip
