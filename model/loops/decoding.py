"""The loops that `model.compiled` decodes with."""

# What numba compiles has the types that it is called with.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import numba
import numpy as np

from model.loops.common import (
    EXACT,
    FREE,
    LN_2_HIGH,
    LN_2_LOW,
    bits_of,
    exp,
    exponentials,
    f4,
    i4,
    in_order,
    norm_row,
    number_of,
    round_row,
    swiglu_row,
    turn,
    u4,
)
from model.loops.threads import in_threads


@numba.njit(**EXACT)
def minus_log_1_minus(y):
    """-log(1 - y) for 0 < y < 1, to 4 units of the last place of small ones too. The polynomial is Cephes' logf's."""
    bits = bits_of(f4(1.0) - y)
    exponent = i4(i4(bits - i4(0x3F3504F3)) >> i4(23))
    small = y < f4(0.29289322)
    t = -y if small else number_of(bits - i4(exponent << i4(23))) - f4(1.0)
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


@numba.njit(**EXACT)
def _norm_row(x, weight, eps, in_fp8, out):
    """As the next product multiplies it."""
    norm_row(x, weight, eps, out)
    if in_fp8:
        round_row(out)


@numba.njit(**EXACT)
def norm(x, weight, eps, in_fp8, out):
    for r in range(len(x)):
        _norm_row(x[r], weight, eps, in_fp8, out[r])


@numba.njit(inline="always", **FREE)
def _weigh(weights, rows, count, size, out):
    """The first ``size`` numbers of ``out`` become the sum of rows[j] times weights[j], for j below ``count``. Four at
    a time, so that ``out`` is passed over less often."""
    for i in range(size):
        out[i] = f4(0.0)
    for j in range(0, count // 4 * 4, 4):
        w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        for i in range(size):
            out[i] += w0 * rows[j, i] + w1 * rows[j + 1, i] + w2 * rows[j + 2, i] + w3 * rows[j + 3, i]
    for j in range(count // 4 * 4, count):
        for i in range(size):
            out[i] += weights[j] * rows[j, i]


@numba.njit(inline="always", **FREE)
def _dots(query, rows, count, size, out):
    """``out`` becomes the products of the first ``size`` numbers of ``query`` with those of rows[t], for t below
    ``count``. Four at a time, whose sums do not wait for each other."""
    for t in range(0, count // 4 * 4, 4):
        s0 = s1 = s2 = s3 = f4(0.0)
        for i in range(size):
            s0 += query[i] * rows[t, i]
            s1 += query[i] * rows[t + 1, i]
            s2 += query[i] * rows[t + 2, i]
            s3 += query[i] * rows[t + 3, i]
        out[t], out[t + 1], out[t + 2], out[t + 3] = s0, s1, s2, s3
    for t in range(count // 4 * 4, count):
        s0 = f4(0.0)
        for i in range(size):
            s0 += query[i] * rows[t, i]
        out[t] = s0


@numba.njit(**FREE)
def _attend(
    first, last, q, new, at, turns, weight, eps, in_fp8, to_keys, to_values, cache, places, used, mask, scale, out
):
    """Rows first to last of the batch: their new tokens into the cache, and their queries against it."""
    each, width = len(q) // len(cache), cache.shape[2]
    heads, rank, values = to_values.shape
    dims = to_keys.shape[1]
    nope = dims - turns.shape[1]
    query, found, scores = np.empty(width, f4), np.empty(rank, f4), np.empty(-(-used // 16) * 16, f4)
    for b in range(first, last):
        for n in range(each * b, each * (b + 1)):
            kept = cache[b, places[n]]
            _norm_row(new[n, at:], weight, eps, in_fp8, kept[:rank])
            turn(new[n, at + rank :], turns[n], kept[rank:])
        for n in range(each * b, each * (b + 1)):
            hidden = mask[b, (n - each * b) % mask.shape[1]]
            for h in range(heads):
                _weigh(q[n, h * dims :], to_keys[h], nope, rank, query)
                turn(q[n, h * dims + nope :], turns[n], query[rank:])
                _dots(query, cache[b], used, width, scores)
                for t in range(used):
                    scores[t] = scores[t] * scale + hidden[t]
                _, total = exponentials(scores, used)
                _weigh(scores, cache[b], used, rank, found)
                for i in range(rank):
                    found[i] /= total
                _weigh(found, to_values[h], rank, values, out[n, h * values :])
            if in_fp8:
                round_row(out[n])


_attend_in_threads = in_threads(_attend)


@numba.njit(**FREE)
def attend(threads, rows, *args):
    """`_attend`."""
    _attend_in_threads(threads, rows, args)


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
def route(x, router, bias, sigmoid, groups, best, kept, normed, factor, scores, indices, gates, counts, ends):
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
                scores[r, e] = f4(1.0) / (f4(1.0) + exp(-scores[r, e]))
        else:
            top, total = scores[r].max(), f4(0.0)
            for e in range(experts):
                scores[r, e] = exp(scores[r, e] - top)
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
def gather(x, indices, ends, counts, in_fp8, place, rows, order):
    """x [N, H], rounded in its place, row by row to its experts. ``place`` [N, K] says where each went and ``order``
    [N K] which came."""
    k = indices.shape[1]
    starts = ends - counts
    for r in range(len(x)):
        if in_fp8:
            round_row(x[r])
        for j in range(k):
            p = starts[indices[r, j]]
            starts[indices[r, j]] += 1
            place[r, j], order[p] = p, r * k + j
            for i in range(x.shape[1]):
                rows[p, i] = x[r, i]


@numba.njit(**EXACT)
def swiglu(gate_up, gates, order, in_fp8, out):
    """`moe.swiglu`, where ``order`` is not empty times the rows' ``gates`` [N K]."""
    for r in range(len(out)):
        factor = gates[order[r]] if len(order) else f4(1.0)
        swiglu_row(gate_up[r], gate_up[r, out.shape[1] :], factor, out[r])
        if in_fp8:
            round_row(out[r])


@numba.njit(**EXACT)
def add_rows(x, dense, rows, place, out):
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
def _race(first, last, logits, inverse, keys, places, below_1, tokens, logprobs):
    """Rows first to last. ``inverse``: 1 over the temperature; ``places`` and ``below_1`` are `model.sampling`'s."""
    width = logits.shape[1]
    speeds = np.empty(width, f4)
    for r in range(first, last):
        key, largest = u4(keys[r]), i4(-(2**31))
        for i in range(width):
            largest = max(largest, in_order(bits_of(logits[r, i] * inverse)))
        top, total, largest = number_of(in_order(largest)), f4(0.0), i4(-(2**31))
        for i in range(width):
            chance = exp(logits[r, i] * inverse - top)
            total += chance
            share = f4(i4(_mixed(u4(places[i] ^ key)) & u4(0x7FFFFFFF)))
            speeds[i] = chance / minus_log_1_minus((share + f4(0.5)) * below_1)
        for i in range(width):
            largest = max(largest, bits_of(speeds[i]))
        token = 0
        while token < width - 1 and bits_of(speeds[token]) != largest:
            token += 1
        tokens[r], logprobs[r] = token, logits[r, token] * inverse - top - np.log(total)


_race_in_threads = in_threads(_race)


@numba.njit(**FREE)
def race(threads, rows, *args):
    """`_race`."""
    _race_in_threads(threads, rows, args)
