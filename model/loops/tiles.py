"""Small products of matrices in FP32 whose sums stay in registers: what a BLAS has too much ado about.

Of a loop over numbers a compiler keeps one vector of sums at a time; here LLVM is given sixteen.
"""

# What numba compiles has the types that it is called with.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from model.loops.common import EXACT

ROWS = 4
"""Of a tile."""
LANES = 16
"""Numbers of a vector; LLVM cuts it in two where a processor's are shorter."""
FLAGS = ("contract",)


def _tile(vectors: int) -> Any:
    """C[q, :] (+)= the sum over r of A[q, r] times B[r, :], for ROWS rows and so many vectors of columns. A's element
    is at ``a_at + q a_q + r a_r``, a row of B or C at ``b_at + r b_r`` or ``c_at + q c_q``, in numbers from the
    beginning of contiguous arrays. What C holds is added to where ``keep``."""

    def tile(typing_context, a, a_at, a_q, a_r, b, b_at, b_r, count, c, c_at, c_q, keep):
        whole = types.intp
        signature = types.void(a, whole, whole, whole, b, whole, whole, whole, c, whole, whole, types.boolean)

        def generate(context, builder, signature, args):
            a, a_at, a_q, a_r, b, b_at, b_r, count, c, c_at, c_q, keep = args
            vector = ir.VectorType(ir.FloatType(), LANES)
            places = [ir.Constant(ir.IntType(64), v * LANES) for v in range(vectors)]

            def start(kind, array, at):
                return builder.gep(context.make_array(kind)(context, builder, array).data, [at])

            def at(pointer, place):
                return builder.bitcast(builder.gep(pointer, [place]), vector.as_pointer())

            def read(pointer, place):
                value = builder.load(at(pointer, place))
                value.align = 4
                return value

            def spread(number):
                empty = ir.Constant(vector, ir.Undefined)
                one = builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
                return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))

            first_a, first_b = start(signature.args[0], a, a_at), start(signature.args[4], b, b_at)
            first_c = start(signature.args[8], c, c_at)
            rows_c = [builder.gep(first_c, [builder.mul(c_q, ir.Constant(ir.IntType(64), q))]) for q in range(ROWS)]
            rows_a = [builder.gep(first_a, [builder.mul(a_q, ir.Constant(ir.IntType(64), q))]) for q in range(ROWS)]
            sums = [[cgutils.alloca_once(builder, vector) for _ in places] for _ in range(ROWS)]
            with builder.if_else(keep) as (then, otherwise):
                with then:
                    for row, own in zip(rows_c, sums, strict=True):
                        for place, held in zip(places, own, strict=True):
                            builder.store(read(row, place), held)
                with otherwise:
                    for own in sums:
                        for held in own:
                            builder.store(ir.Constant(vector, None), held)
            with cgutils.for_range(builder, count) as loop:
                row = builder.gep(first_b, [builder.mul(loop.index, b_r)])
                values = [read(row, place) for place in places]
                step = builder.mul(loop.index, a_r)
                for pointer, own in zip(rows_a, sums, strict=True):
                    weight = spread(builder.load(builder.gep(pointer, [step])))
                    for value, held in zip(values, own, strict=True):
                        more = builder.fmul(weight, value, flags=FLAGS)
                        builder.store(builder.fadd(builder.load(held), more, flags=FLAGS), held)
            for row, own in zip(rows_c, sums, strict=True):
                for place, held in zip(places, own, strict=True):
                    builder.store(builder.load(held), at(row, place)).align = 4
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(tile)


_one, _two = _tile(1), _tile(2)


@numba.njit(inline="always", **EXACT)
def _tiles(a, a_at, a_q, a_r, b, count, c, c_at, width, keep):
    """`_tile` for ``width`` columns, a multiple of LANES, of matrices ``b`` and ``c``."""
    for i in range(0, width // (2 * LANES) * 2 * LANES, 2 * LANES):
        _two(a, a_at, a_q, a_r, b, i, b.shape[1], count, c, c_at + i, c.shape[1], keep)
    if width % (2 * LANES):
        i = width - LANES
        _one(a, a_at, a_q, a_r, b, i, b.shape[1], count, c, c_at + i, c.shape[1], keep)


@numba.njit(inline="always", **EXACT)
def product(a, b, count, c, width):
    """c[:ROWS, :width] becomes a[:ROWS, :count] times b[:count, :width]; width is a multiple of LANES."""
    _tiles(a, 0, a.shape[1], 1, b, count, c, 0, width, False)


@numba.njit(inline="always", **EXACT)
def add_outer(a, b, count, c, rows, width):
    """Adds a[:count, :rows] transposed, times b[:count, :width], to c[:rows, :width], and with it what follows in a up
    to a multiple of ROWS; width is a multiple of LANES."""
    for j in range(0, rows, ROWS):
        _tiles(a, j, 1, a.shape[1], b, count, c, j * c.shape[1], width, True)
