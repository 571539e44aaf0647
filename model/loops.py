"""Decoding in FP32 on a CPU by loops that numba compiles.

A step has a token a row, and of an operator that short a CPU has more time for finding it than for what it does: its
code is pushed out of the caches by the weights and the KV cache that every step reads. So a layer is products, which
are torch's, and a few loops over the rows between them. `CompiledLayer` computes what `decoding.Layer` does, and
`raced` what its namesake in `model.sampling` does. A compiled loop runs without the interpreter's lock: where torch has
several threads and there is much to do, rows are shared out among them.
"""

# What numba compiles has the types that it is called with.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from model import fp8
from model.decoding import Layer, Reach
from model.moe import Routing
from model.sampling import BELOW_1, hashes
from model.transformer import Block

f4, i4, u4 = np.float32, np.int32, np.uint32


def _can_keep() -> bool:
    """Whether there is a place for compiled code, which then compiles once and not in every process."""
    try:
        numba.njit(cache=True)(_can_keep)
    except RuntimeError:
        return False
    return True


EXACT: dict[str, Any] = {"nogil": True, "cache": _can_keep(), "error_model": "numpy", "fastmath": {"contract"}}
FREE: dict[str, Any] = {**EXACT, "fastmath": {"contract", "reassoc", "nsz"}}
"""Sums may be taken in an order that fits into vectors, which is always the same."""
WORTH = 2**19
"""Multiplications for which another thread is worth waking."""
LOG2_E, LN_2_HIGH, LN_2_LOW = f4(1.44269504), f4(0.693359375), f4(-2.12194440e-4)


@numba.njit(**EXACT)
def _bits(x):
    return np.float32(x).view(np.int32)


@numba.njit(**EXACT)
def _number(bits):
    return np.int32(bits).view(np.float32)


@numba.njit(**EXACT)
def _ordered(bits):
    """Of a number's bits a whole number in the order of the numbers, and back: maxima of those are taken in vectors."""
    return i4(bits ^ ((bits >> i4(31)) & i4(0x7FFFFFFF)))


@numba.njit(**EXACT)
def _exp(x):
    """To 2 units of the last place, and 0 below e^-87.3. The reduction and the polynomial are those of Cephes' expf."""
    bounded = min(max(x, f4(-87.3)), f4(88.3))
    whole = np.floor(bounded * LOG2_E + f4(0.5))
    r = bounded - whole * LN_2_HIGH - whole * LN_2_LOW
    p = f4(1.9875691500e-4)
    p = p * r + f4(1.3981999507e-3)
    p = p * r + f4(8.3334519073e-3)
    p = p * r + f4(4.1665795894e-2)
    p = p * r + f4(1.6666665459e-1)
    p = p * r + f4(5.0000001201e-1)
    p = p * (r * r) + r + f4(1.0)
    power = _number((i4(whole) + i4(127)) << i4(23))
    return p * power if x >= f4(-87.3) else f4(0.0)


@numba.njit(**EXACT)
def _minus_log_1_minus(y):
    """-log(1 - y) for 0 < y < 1, to 4 units of the last place of small ones too. The polynomial is Cephes' logf's."""
    bits = _bits(f4(1.0) - y)
    exponent = i4(i4(bits - i4(0x3F3504F3)) >> i4(23))
    small = y < f4(0.29289322)
    t = -y if small else _number(bits - i4(exponent << i4(23))) - f4(1.0)
    e = f4(0.0) if small else f4(exponent)
    z = t * t
    p = f4(7.0376836292e-2)
    p = p * t - f4(1.1514610310e-1)
    p = p * t + f4(1.1676998740e-1)
    p = p * t - f4(1.2420140846e-1)
    p = p * t + f4(1.4249322787e-1)
    p = p * t - f4(1.6668057665e-1)
    p = p * t + f4(2.0000714765e-1)
    p = p * t - f4(2.4999993993e-1)
    p = p * t + f4(3.3333331174e-1)
    return -(t + (p * t * z + e * LN_2_LOW - f4(0.5) * z) + e * LN_2_HIGH)


# Rows are taken out as views and walked through from 0: of an index that could be negative numba asks whether it is,
# and such loops do not become vectors.


@numba.njit(**EXACT)
def _round(x):
    """A row in its place as `fp8.round_tiles` has it, to the bit."""
    for first in range(0, len(x), 128):
        tile, largest = x[first : first + 128], _bits(f4(1e-4))
        for i in range(len(tile)):
            largest = max(largest, i4(_bits(tile[i]) & i4(0x7FFFFFFF)))
        scale = _number(largest) / f4(448.0)
        for i in range(len(tile)):
            y = tile[i] / scale
            quanta = max(_number(_bits(y) & i4(0x7F800000)), f4(2.0**-6)) * f4(1.5 * 2.0**20)
            tile[i] = ((y + quanta) - quanta) * scale


@numba.njit(**FREE)
def _norm_row(x, weight, eps, in_fp8, out):
    """Of as many numbers as there are weights, as the next product multiplies them."""
    squares = f4(0.0)
    for i in range(len(weight)):
        squares += x[i] * x[i]
    inverse = f4(1.0) / np.sqrt(squares / f4(len(weight)) + eps)
    for i in range(len(weight)):
        out[i] = x[i] * inverse * weight[i]
    if in_fp8:
        _round(out)


@numba.njit(**EXACT)
def _norm(x, weight, eps, in_fp8, out):
    for r in range(len(x)):
        _norm_row(x[r], weight, eps, in_fp8, out[r])


@numba.njit(**EXACT)
def _turn(x, turns, out):
    for i in range(0, len(turns), 2):
        out[i] = x[i] * turns[i] - x[i + 1] * turns[i + 1]
        out[i + 1] = x[i] * turns[i + 1] + x[i + 1] * turns[i]


@numba.njit(inline="always", **FREE)
def _weigh(weights, at, count, rows, b, size, out):
    """The first ``size`` numbers of ``out`` become the sum of rows[b, j] times weights[at + j], for j below ``count``.
    Four at a time, so that ``out`` is passed over less often."""
    for i in range(size):
        out[i] = f4(0.0)
    for j in range(0, count // 4 * 4, 4):
        w0, w1, w2, w3 = weights[at + j], weights[at + j + 1], weights[at + j + 2], weights[at + j + 3]
        for i in range(size):
            out[i] += w0 * rows[b, j, i] + w1 * rows[b, j + 1, i] + w2 * rows[b, j + 2, i] + w3 * rows[b, j + 3, i]
    for j in range(count // 4 * 4, count):
        for i in range(size):
            out[i] += weights[at + j] * rows[b, j, i]


@numba.njit(inline="always", **FREE)
def _dots(query, rows, b, count, size, out):
    """``out`` becomes the products of the first ``size`` numbers of ``query`` with those of rows[b, t], for t below
    ``count``. Four at a time, whose sums do not wait for each other."""
    for t in range(0, count // 4 * 4, 4):
        s0 = s1 = s2 = s3 = f4(0.0)
        for i in range(size):
            s0 += query[i] * rows[b, t, i]
            s1 += query[i] * rows[b, t + 1, i]
            s2 += query[i] * rows[b, t + 2, i]
            s3 += query[i] * rows[b, t + 3, i]
        out[t], out[t + 1], out[t + 2], out[t + 3] = s0, s1, s2, s3
    for t in range(count // 4 * 4, count):
        s0 = f4(0.0)
        for i in range(size):
            s0 += query[i] * rows[b, t, i]
        out[t] = s0


@numba.njit(**FREE)
def _softmax(scores, scale, mask, used):
    """Of the first ``used`` scores, in their place, before the division by their sum, which is returned. Those behind,
    up to a whole vector, become 0."""
    largest, total = i4(-(2**31)), f4(0.0)
    for t in range(used):
        scores[t] = scores[t] * scale + mask[t]
        largest = max(largest, _ordered(_bits(scores[t])))
    for t in range(used, len(scores)):
        scores[t] = f4(-np.inf)
    top = _number(_ordered(largest))
    for t in range(len(scores)):
        scores[t] = _exp(scores[t] - top)
        total += scores[t]
    return total


@functools.cache
def attending(heads: int, nope: int, rope: int, rank: int, values: int) -> Any:
    """The loop over rows first to last of the batch: their new tokens into the cache, and their queries against it.
    Compiled for these sizes, which its inner loops have."""
    dims, width = nope + rope, rank + rope

    @numba.njit(**FREE)
    def attend(
        first, last, q, new, at, turns, weight, eps, in_fp8, to_keys, to_values, cache, places, used, mask, scale, out
    ):
        each = len(q) // len(cache)
        query, found, scores = np.empty(width, f4), np.empty(rank, f4), np.empty(-(-used // 16) * 16, f4)
        for b in range(first, last):
            for n in range(each * b, each * (b + 1)):
                kept = cache[b, places[n]]
                _norm_row(new[n, at:], weight, eps, in_fp8, kept[:rank])
                _turn(new[n, at + rank :], turns[n], kept[rank:])
            for n in range(each * b, each * (b + 1)):
                for h in range(heads):
                    _weigh(q[n], h * dims, nope, to_keys, h, rank, query)
                    _turn(q[n, h * dims + nope :], turns[n], query[rank:])
                    _dots(query, cache, b, used, width, scores)
                    total = _softmax(scores, scale, mask[b, (n - each * b) % mask.shape[1]], used)
                    _weigh(scores, 0, used, cache, b, rank, found)
                    for i in range(rank):
                        found[i] /= total
                    _weigh(found, 0, rank, to_values, h, values, out[n, h * values : (h + 1) * values])
                if in_fp8:
                    _round(out[n])

    return attend


@numba.njit(**EXACT)
def _choose(choice, groups, best, kept, indices, r):
    """`moe.choose` for row r; ``choice`` [E] is used up."""
    size = len(choice) // groups
    if groups > 1:
        score, group = np.zeros(groups, f4), np.empty(size, f4)
        for g in range(groups):
            group[:] = choice[g * size : (g + 1) * size]
            for _ in range(best):
                e = np.argmax(group)
                score[g] += group[e]
                group[e] = -np.inf
        for _ in range(groups - kept):
            worst = np.argmin(score)
            score[worst] = np.inf
            choice[worst * size : (worst + 1) * size] = -np.inf
    for k in range(indices.shape[1]):
        e = np.argmax(choice)
        choice[e] = -np.inf
        indices[r, k] = e


@numba.njit(**FREE)
def _route(x, router, bias, sigmoid, groups, best, kept, normed, factor, scores, indices, gates, counts, ends):
    """`moe.route` of the rows x [N, H]; ``ends`` [E] is where each expert's rows end."""
    experts, k = scores.shape[1], indices.shape[1]
    choice = np.empty(experts, f4)
    counts[:] = 0
    for r in range(len(x)):
        for e in range(experts):
            total = f4(0.0)
            for i in range(x.shape[1]):
                total += x[r, i] * router[e, i]
            scores[r, e] = total
        if sigmoid:
            for e in range(experts):
                scores[r, e] = f4(1.0) / (f4(1.0) + _exp(-scores[r, e]))
        else:
            top, total = scores[r].max(), f4(0.0)
            for e in range(experts):
                scores[r, e] = _exp(scores[r, e] - top)
                total += scores[r, e]
            for e in range(experts):
                scores[r, e] /= total
        for e in range(experts):
            choice[e] = scores[r, e] + bias[e]
        _choose(choice, groups, best, kept, indices, r)
        total = f4(0.0)
        for j in range(k):
            gates[r, j] = scores[r, indices[r, j]]
            total += gates[r, j]
            counts[indices[r, j]] += 1
        for j in range(k):
            gates[r, j] *= factor / (total + f4(1e-20)) if normed else factor
    ends[:] = np.cumsum(counts)


@numba.njit(**EXACT)
def _gather(x, indices, ends, counts, in_fp8, place, rows, order):
    """x [N, H], rounded in its place, row by row to its experts. ``place`` [N, K] says where each went and ``order``
    [N K] which came."""
    k = indices.shape[1]
    starts = ends - counts
    for r in range(len(x)):
        if in_fp8:
            _round(x[r])
        for j in range(k):
            p = starts[indices[r, j]]
            starts[indices[r, j]] += 1
            place[r, j], order[p] = p, r * k + j
            for i in range(x.shape[1]):
                rows[p, i] = x[r, i]


@numba.njit(**EXACT)
def _add_norm(x, more, weight, eps, total, out):
    for r in range(len(x)):
        for i in range(x.shape[1]):
            total[r, i] = x[r, i] + more[r, i]
        _norm_row(total[r], weight, eps, False, out[r])


@numba.njit(**EXACT)
def _gate(gate_up, gates, order, in_fp8, out):
    """`moe.swiglu`, where ``order`` is not empty times the rows' ``gates`` [N K]."""
    width = out.shape[1]
    for r in range(len(out)):
        factor, up = gates[order[r]] if len(order) else f4(1.0), gate_up[r, width:]
        for i in range(width):
            gate = gate_up[r, i]
            out[r, i] = gate / (f4(1.0) + _exp(-gate)) * up[i] * factor
        if in_fp8:
            _round(out[r])


@numba.njit(**EXACT)
def _sum(x, dense, rows, place, out):
    """x [N, H], where there is one the output of the ``dense`` layer, and each token's rows of experts."""
    for t in range(len(x)):
        for i in range(x.shape[1]):
            out[t, i] = x[t, i]
        if len(dense):
            for i in range(x.shape[1]):
                out[t, i] += dense[t, i]
        for k in range(place.shape[1]):
            p = place[t, k]
            for i in range(x.shape[1]):
                out[t, i] += rows[p, i]


@numba.njit(**EXACT)
def _mixed(x):
    """`sampling._mixed`, of numbers without a sign."""
    x = u4(x ^ (x >> u4(16)))
    x = u4(x * u4(0x7FEB352D))
    x = u4(x ^ (x >> u4(15)))
    x = u4(x * u4(0x846CA68B))
    return u4(x ^ (x >> u4(16)))


@numba.njit(**FREE)
def _race(first, last, logits, inverse, keys, places, tokens, logprobs):
    """Rows first to last. ``inverse``: 1 over the temperature; ``places``: `sampling.hashes`."""
    width = logits.shape[1]
    speeds = np.empty(width, f4)
    for r in range(first, last):
        key, largest = u4(keys[r]), i4(-(2**31))
        for i in range(width):
            largest = max(largest, _ordered(_bits(logits[r, i] * inverse)))
        top, total, largest = _number(_ordered(largest)), f4(0.0), i4(-(2**31))
        for i in range(width):
            chance = _exp(logits[r, i] * inverse - top)
            total += chance
            share = f4(i4(_mixed(u4(places[i] ^ key)) & u4(0x7FFFFFFF)))
            speeds[i] = chance / _minus_log_1_minus((share + f4(0.5)) * f4(BELOW_1))
        for i in range(width):
            largest = max(largest, _bits(speeds[i]))
        token = 0
        while token < width - 1 and _bits(speeds[token]) != largest:
            token += 1
        tokens[r], logprobs[r] = token, logits[r, token] * inverse - top - np.log(total)


def raced(logits: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    rows, width = logits.shape
    tokens, logprobs = torch.empty(rows, dtype=torch.int64), logits.new_empty(rows)
    places = hashes(width, logits.device).numpy().view(u4)
    given = logits.numpy(), f4(1 / temperature), keys.contiguous().numpy(), places, tokens.numpy(), logprobs.numpy()
    shared_out(lambda first, last: _race(first, last, *given), rows, 32 * rows * width)
    return tokens, logprobs


def shared_out(run: Callable[[int, int], None], rows: int, work: int) -> None:
    """Calls ``run`` for rows from one to another, in as many of torch's threads as ``work`` multiplications are
    worth."""
    threads = max(1, min(torch.get_num_threads(), rows, work // WORTH))
    ends = [rows * i // threads for i in range(threads + 1)]
    others = [_pool().submit(run, first, last) for first, last in itertools.pairwise(ends[1:])]
    run(0, ends[1])
    for other in others:
        other.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count())


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
        c = self.c
        sizes = c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.kv_lora_rank, c.v_head_dim
        self.attend, self.room = attending(*sizes), Room(0)

    def __call__(self, x: Tensor, cache: Tensor, reach: Reach) -> tuple[Tensor, Routing | None]:
        if self.room.rows != len(x):
            self.room = self._room(len(x))
        t, a, given, eps = self.room.t, self.room.a, x.numpy(), f4(self.eps)
        _norm(given, self.weights.input, eps, self.in_fp8, a.operand)
        torch.mm(t.operand, self.both, out=t.both)
        self._attend(cache, reach)
        torch.mm(t.values, self.out, out=t.attended)
        _add_norm(given, a.attended, self.weights.post, eps, a.total, a.operand)
        routing = None if self.router is None else self._route()
        _gather(a.operand, a.indices, a.ends, a.counts, self.in_fp8, a.place, a.sent, a.order)
        if self.dense:
            torch.mm(t.operand, self.gate_up, out=t.gate_up)
            _gate(a.gate_up, NO_NUMBERS, NO_ORDER, self.in_fp8, a.dense_inner)
            torch.mm(t.dense_inner, self.down, out=t.dense)
        rows = a.sent
        if routing is not None:
            gate_up = fp8.grouped_rows(t.sent, self.experts_in, t.ends)
            _gate(gate_up.numpy(), a.gates.ravel(), a.order, self.in_fp8, a.inner)
            rows = fp8.grouped_rows(t.inner, self.experts_out, t.ends).numpy()
        out = torch.empty_like(x)
        _sum(a.total, a.dense, rows, a.place, out.numpy())
        return out, routing

    def _attend(self, cache: Tensor, reach: Reach) -> None:
        t, a, w, eps = self.room.t, self.room.a, self.weights, f4(self.eps)
        q, at = a.both, self.query.shape[1]
        if self.low_rank:
            _norm(a.both, w.query, eps, self.in_fp8, a.latents)
            q = torch.mm(t.latents, self.query_up).numpy()
        given = (
            q, a.both, at, reach.turns.numpy().view(f4), w.latent, eps, self.in_fp8, w.to_keys, w.to_values,
            cache.numpy(), reach.places.numpy(), reach.used, reach.mask.numpy(), f4(self.scale), a.values,
        )  # fmt: skip
        work = 2 * len(q) * len(w.to_keys) * reach.used * cache.shape[2]
        shared_out(lambda first, last: self.attend(first, last, *given), len(cache), work)

    def _route(self) -> Routing:
        t, a, c, w = self.room.t, self.room.a, self.c, self.weights
        _route(
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
            values=(rows, len(self.out)), attended=(rows, hidden), total=(rows, hidden), scores=(rows, experts),
            indices=(rows, k), gates=(rows, k), counts=(experts,), ends=(experts,), place=(rows, k),
            order=(rows * k,), sent=(rows * k, hidden), inner=(rows * k, c.moe_intermediate_size),
            gate_up=(rows, 2 * dense), dense_inner=(rows, dense), dense=(rows if dense else 0, hidden),
        )  # fmt: skip


NO_NUMBERS, NO_ORDER = np.empty(0, f4), np.empty(0, np.int64)
