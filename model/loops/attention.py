"""Multi-head latent attention over whole sequences, forward and backward, a sequence and head at a time: what lies
between q_b_proj, kv_b_proj and o_proj in `model.attention`.

What belongs to one sequence and head stays in a core's own caches, rows need no padding, and only scores up to the
diagonal are made, of four queries at a time. The backward pass makes them anew (FlashAttention, arXiv:2205.14135).

A unit of work is a group of sequences with one prefix, and a head, in the order of [groups, heads]; loops do those from
first to last. ``q`` FP32 [N,
heads (nope + rope)] is not turned yet; ``expanded`` [N, heads (nope + values)]; ``key`` [N, rope] is turned by
``turns`` [N, rope], cosines and sines in turn; ``spans`` and ``groups`` are those of `model.segments.Segments`. ``out``
[N, heads values] and ``sums`` [N, heads], the logarithms of the softmax's denominators, are written forward.
"""

# What numba compiles has the types that it is called with.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import numba
import numpy as np

from model.loops.common import FREE, exp, exponentials, f4, turn, turn_back
from model.loops.threads import in_threads
from model.loops.tiles import LANES, ROWS, add_outer, product


@numba.njit(**FREE)
def _filled(count):
    """So many numbers, filled up to whole vectors."""
    return -(-count // LANES) * LANES


@numba.njit(**FREE)
def _token(p, span):
    """At a sequence's place p."""
    prefix, _, shared, own = span
    return p + (shared if p < prefix else own)


@numba.njit(**FREE)
def _run(p, span):
    """How many tokens, of a tile's rows at most, lie one behind the other from place p on."""
    prefix, end, _, _ = span
    return min(ROWS, (prefix if p < prefix else end) - p)


@numba.njit(**FREE)
def _copy(source, size, target):
    for i in range(size):
        target[i] = source[i]


@numba.njit(**FREE)
def _add(source, size, target):
    for i in range(size):
        target[i] += source[i]


@numba.njit(**FREE)
def _turn_over(rows, first, last, columns):
    """Rows first to last of ``rows`` become columns."""
    for p in range(first, last):
        row, column = rows[p], columns[:, p]
        for i in range(len(columns)):
            column[i] = row[i]


@numba.njit(**FREE)
def _read(expanded, key, begin, span, at, nope, values, keys, contents):
    """A head's keys and values, which begin ``at`` a token's numbers, from place ``begin`` on."""
    for p in range(begin, span[1]):
        t = _token(p, span)
        both, row = expanded[t, at:], keys[p]
        _copy(both, nope, row)
        _copy(key[t], key.shape[1], row[nope:])
        _copy(both[nope:], values, contents[p])


@numba.njit(**FREE)
def _read_queries(q, turns, t, count, at, nope, scale, out):
    """Of ``count`` tokens from t on, turned and scaled."""
    dims = nope + turns.shape[1]
    for b in range(count):
        own, row = q[t + b, at:], out[b]
        _copy(own, nope, row)
        turn(own[nope:], turns[t + b], row[nope:])
        for i in range(dims):
            row[i] *= scale


@numba.njit(**FREE)
def _forward(first, last, q, expanded, key, turns, spans, groups, longest, scale, out, sums):
    heads, rope = sums.shape[1], key.shape[1]
    dims, values, most = q.shape[1] // heads, out.shape[1] // heads, _filled(longest + ROWS)
    nope = dims - rope
    rows, contents = np.zeros((most, dims), f4), np.zeros((most, _filled(values)), f4)
    keys, scores = np.zeros((dims, most), f4), np.zeros((ROWS, most), f4)
    queries, found = np.zeros((ROWS, dims), f4), np.zeros((ROWS, _filled(values)), f4)
    for unit in range(first, last):
        g, h = unit // heads, unit % heads
        for s in range(groups[g], groups[g + 1]):
            span = spans[s]
            p = 0 if s == groups[g] else span[0]
            _read(expanded, key, p, span, h * (nope + values), nope, values, rows, contents)
            _turn_over(rows, p, span[1], keys)
            while p < span[1]:
                t, count = _token(p, span), _run(p, span)
                used = _filled(p + count)
                _read_queries(q, turns, t, count, h * dims, nope, scale, queries)
                product(queries, keys, dims, scores, used)
                for b in range(count):
                    row = scores[b, :used]
                    top, total = exponentials(row, p + b + 1)
                    sums[t + b, h] = top + np.log(total)
                    for j in range(used):
                        row[j] /= total
                product(scores, contents, p + count, found, _filled(values))
                for b in range(count):
                    _copy(found[b], values, out[t + b, h * values :])
                p += count


_forward_in_threads = in_threads(_forward)


@numba.njit(**FREE)
def forward(threads, units, *args):
    """`_forward`."""
    _forward_in_threads(threads, units, args)


@numba.njit(**FREE)
def _slopes(chance, slope, top, along, reach):
    """A query's scores become their softmax, and the gradients of that become those of the scores."""
    for j in range(reach, len(chance)):
        chance[j], slope[j] = f4(-np.inf), f4(0.0)
    for j in range(len(chance)):
        chance[j] = exp(chance[j] - top)
    for j in range(len(chance)):
        slope[j] = chance[j] * (slope[j] - along)


@numba.njit(**FREE)
def _write_query(d_query, turns, nope, scale, out):
    """The gradient of a query as it was before it was turned and scaled."""
    for i in range(nope + len(turns)):
        d_query[i] *= scale
    _copy(d_query, nope, out)
    turn_back(d_query[nope:], turns, out[nope:])


@numba.njit(**FREE)
def _backward(
    first, last, d_out, q, expanded, key, turns, spans, groups, longest, scale, out, sums, d_q, d_expanded, d_keys
):
    """``d_out`` is like out; written are ``d_q`` and ``d_expanded`` like q and expanded, and
    ``d_keys`` [N, heads rope], each head's gradient of the key."""
    heads, rope = sums.shape[1], key.shape[1]
    dims, values, most = q.shape[1] // heads, out.shape[1] // heads, _filled(longest + ROWS)
    nope, width = dims - rope, dims - rope + values
    rows, contents = np.zeros((most, _filled(dims)), f4), np.zeros((most, values), f4)
    d_rows, d_contents = np.zeros((most, _filled(dims)), f4), np.zeros((most, _filled(values)), f4)
    keys, turned_over = np.zeros((dims, most), f4), np.zeros((values, most), f4)
    queries, d_queries = np.zeros((ROWS, _filled(dims)), f4), np.zeros((ROWS, _filled(dims)), f4)
    sent = np.zeros((ROWS, _filled(values)), f4)
    chances, slopes = np.zeros((ROWS, most), f4), np.zeros((ROWS, most), f4)
    for unit in range(first, last):
        g, h = unit // heads, unit % heads
        for s in range(groups[g], groups[g + 1]):
            span = spans[s]
            begin, end = 0 if s == groups[g] else span[0], span[1]
            _read(expanded, key, begin, span, h * width, nope, values, rows, contents)
            _turn_over(rows, begin, end, keys)
            _turn_over(contents, begin, end, turned_over)
            d_rows[:end], d_contents[:end] = f4(0.0), f4(0.0)
            p = begin
            while p < end:
                t, count = _token(p, span), _run(p, span)
                used = _filled(p + count)
                _read_queries(q, turns, t, count, h * dims, nope, scale, queries)
                for b in range(count):
                    _copy(d_out[t + b, h * values :], values, sent[b])
                product(queries, keys, dims, chances, used)
                product(sent, turned_over, values, slopes, used)
                for b in range(count):
                    along, row = f4(0.0), out[t + b, h * values :]
                    for i in range(values):
                        along += sent[b, i] * row[i]
                    _slopes(chances[b, :used], slopes[b, :used], sums[t + b, h], along, p + b + 1)
                product(slopes, rows, p + count, d_queries, _filled(dims))
                add_outer(slopes, queries, count, d_rows, p + count, _filled(dims))
                add_outer(chances, sent, count, d_contents, p + count, _filled(values))
                for b in range(count):
                    _write_query(d_queries[b], turns[t + b], nope, scale, d_q[t + b, h * dims :])
                p += count
            for p in range(end):
                t = _token(p, span)
                both, tail = d_expanded[t, h * width :], d_keys[t, h * rope :]
                if p < begin:
                    _add(both, nope, d_rows[p])
                    _add(tail, rope, d_rows[p, nope:])
                    _add(both[nope:], values, d_contents[p])
                _copy(d_rows[p], nope, both)
                _copy(d_rows[p, nope:], rope, tail)
                _copy(d_contents[p], values, both[nope:])


_backward_in_threads = in_threads(_backward)


@numba.njit(**FREE)
def backward(threads, units, *args):
    """`_backward`."""
    _backward_in_threads(threads, units, args)
