"""Grouped block-FP8 matrix products on Hopper: forward, gradient of the input (Dgrad) and of the weight (Wgrad).

A persistent kernel of three roles per multiprocessor: one warp fetches tiles through tensor descriptors into a ring of
shared memory, and two warp groups of 64 rows each multiply. Tensor cores keep about 14 bits of an FP8 sum, so each
block of 128 along the contraction is multiplied on its own and added in FP32 with its scales (DeepSeek-V3 report,
section 3.3.2). While one warp group does that addition, the other has the tensor cores; neither waits for the other,
only for the ring.

With two ``HALVES`` a tile has 256 rows: a warp group multiplies 64 of the first 128, then 64 of the others, where their
expert has them. That reads a quarter less from the L2 cache, which holds back tiles of 128x128.

Scales are stored with the long dimension contiguous and come with the tiles. Rows of an expert start at a multiple of
128 (`model.kernels.rows.Places`), so that a tile has one expert and its scales start at whole 16 bytes: a bulk copy of
FP32 faults elsewhere. Wgrad contracts over the same rows.
"""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, attr-defined, no-untyped-call"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from model.kernels.launch import launched


@gluon.jit
def _place(local, m_tiles, n_tiles, GROUP: gl.constexpr):
    """Row and column tile number ``local`` of an expert, column by column within groups of row tiles."""
    width = GROUP * n_tiles
    first = (local // width) * GROUP
    size = gl.minimum(m_tiles - first, GROUP)
    rest = local % width
    return first + rest % size, rest // size


@gluon.jit
def _expert(e, ends, rows, k_blocks, WGRAD: gl.constexpr, HALVES: gl.constexpr):
    """Of expert e: (first token, rows, row tiles, first block of the contraction, its number of blocks)."""
    start = gl.load(ends + e - 1, mask=e > 0, other=0)
    end = gl.load(ends + e)
    size: gl.constexpr = 128 * HALVES
    if WGRAD:
        return start, rows, (rows + size - 1) // size, start // 128, (end - start) // 128
    else:  # noqa: RET505 - a compile-time branch
        return start, end - start, (end - start + size - 1) // size, start * 0, k_blocks


@gluon.jit
def _produce(
    a, b, sa, sb, ends, buffers, experts, rows, cols, k_blocks,
    WGRAD: gl.constexpr, GROUP: gl.constexpr, HALVES: gl.constexpr,
):  # fmt: skip
    a_ring, b_ring, sa_ring, sb_ring, full, empty = buffers
    STAGES: gl.constexpr = full.shape[0]
    half: gl.constexpr = 128 * 128 + 4 * 128
    column: gl.constexpr = half if WGRAD else 128 * 128
    n_tiles = (cols + 127) // 128
    tile = gl.program_id(0)
    base = 0
    step = 0
    for e in range(experts):
        start, expert_rows, m_tiles, first_block, blocks = _expert(e, ends, rows, k_blocks, WGRAD, HALVES)
        while tile < base + m_tiles * n_tiles:
            m, n = _place(tile - base, m_tiles, n_tiles, GROUP)
            a_row = m * 128 * HALVES + (0 if WGRAD else start)
            b_row = n * 128 + (0 if WGRAD else e * cols)
            for block in range(first_block, first_block + blocks):
                stage = step % STAGES
                mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
                ready = full.index(stage)
                if HALVES == 2 and m * 256 + 128 < expert_rows:
                    mbarrier.expect(ready, 2 * half + column)
                    _fetch(a, sa, a_ring, sa_ring, ready, a_row + 128, block, 2 * HALVES * stage + 2)
                else:
                    mbarrier.expect(ready, half + column)
                _fetch(a, sa, a_ring, sa_ring, ready, a_row, block, 2 * HALVES * stage)
                tma.async_copy_global_to_shared(b, [b_row, block * 128], ready, b_ring.index(stage))
                if WGRAD:
                    tma.async_copy_global_to_shared(sb, [block, b_row], ready, sb_ring.index(stage))
                step += 1
            tile += gl.num_programs(0)
        base += m_tiles * n_tiles


@gluon.jit
def _fetch(a, sa, a_ring, sa_ring, ready, row, block, slot):
    """128 rows of a block with their scales, 64 for each warp group."""
    for part in gl.static_range(2):
        tma.async_copy_global_to_shared(a, [row + 64 * part, block * 128], ready, a_ring.index(slot + part))
        tma.async_copy_global_to_shared(sa, [block, row + 64 * part], ready, sa_ring.index(slot + part))


@gluon.jit
def _next_block(scale, scales, block, blocks, full, step, WGRAD: gl.constexpr):
    """Waits until ``block`` lies in its stage of the ring; (the scale of the one after it, the stage)."""
    if not WGRAD:
        scale = gl.load(scales + gl.minimum(block + 1, blocks - 1))
    stage = step % full.shape[0]
    mbarrier.wait(full.index(stage), (step // full.shape[0]) & 1)
    return scale, stage


@gluon.jit
def _multiply(
    total, product, scale_b, buffers, stage, slot, LAST: gl.constexpr, WGRAD: gl.constexpr, mma: gl.constexpr
):
    """``total`` with a block's product of 64 rows, which takes the registers of the last ``product``."""
    a_ring, b_ring, sa_ring, sb_ring, _, empty = buffers
    flat: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    product = warpgroup_mma(
        a_ring.index(slot), b_ring.index(stage).permute((1, 0)), product, use_acc=False, is_async=True
    )
    scale = gl.expand_dims(sa_ring.index(slot)._reinterpret(gl.float32, [64], flat).load(gl.SliceLayout(1, mma)), 1)
    if WGRAD:
        columns = sb_ring.index(stage)._reinterpret(gl.float32, [128], flat).load(gl.SliceLayout(0, mma))
    else:
        scale = scale * scale_b
    product = warpgroup_mma_wait(0, [product])
    if LAST:
        mbarrier.arrive(empty.index(stage), count=1)
    if WGRAD:
        total += product * scale * gl.expand_dims(columns, 0)
    else:
        total += product * scale
    return total, product


@gluon.jit
def _consume(
    sb_pointer, sb_stride, ends, out, out_pointer, out_stride, buffers, staging, experts, rows, cols, k_blocks,
    period, ahead, gap, PART: gl.constexpr, WGRAD: gl.constexpr, GROUP: gl.constexpr, HALVES: gl.constexpr,
):  # fmt: skip
    full = buffers[4]
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32])
    n_tiles = (cols + 127) // 128
    tile = gl.program_id(0)
    base = 0
    step = 0
    for e in range(experts):
        start, expert_rows, m_tiles, _, blocks = _expert(e, ends, rows, k_blocks, WGRAD, HALVES)
        while tile < base + m_tiles * n_tiles:
            m, n = _place(tile - base, m_tiles, n_tiles, GROUP)
            scales = sb_pointer + (e * n_tiles + n) * sb_stride
            first = gl.zeros([64, 128], gl.float32, mma)
            second = gl.zeros([64, 128], gl.float32, mma)
            product = gl.zeros([64, 128], gl.float32, mma)
            following = 1.0 if WGRAD else gl.load(scales)
            if HALVES == 2 and m * 256 + 128 < expert_rows:
                for block in range(blocks):
                    scale_b = following
                    following, stage = _next_block(following, scales, block, blocks, full, step, WGRAD)
                    slot = 2 * HALVES * stage + PART
                    first, product = _multiply(first, product, scale_b, buffers, stage, slot, False, WGRAD, mma)
                    second, product = _multiply(second, product, scale_b, buffers, stage, slot + 2, True, WGRAD, mma)
                    step += 1
            else:
                for block in range(blocks):
                    scale_b = following
                    following, stage = _next_block(following, scales, block, blocks, full, step, WGRAD)
                    slot = 2 * HALVES * stage + PART
                    first, product = _multiply(first, product, scale_b, buffers, stage, slot, True, WGRAD, mma)
                    step += 1
            row = 64 * PART + m * 128 * HALVES + (e * rows if WGRAD else start)
            row_end = expert_rows + (e * rows if WGRAD else start)
            column = n * 128 + (n * 128 + ahead) // period * gap
            until = column + cols - n * 128
            tma.store_wait(0)
            _write(first, out, out_pointer, out_stride, staging.index(PART), row, row_end, column, until, mma)
            if HALVES == 2:
                row += 128
                _write(second, out, out_pointer, out_stride, staging.index(PART + 2), row, row_end, column, until, mma)
            tile += gl.num_programs(0)
        base += m_tiles * n_tiles
    tma.store_wait(0)


@gluon.jit
def _write(total, out, out_pointer, stride, staging, row, end, column, until, mma: gl.constexpr):
    """64 rows of a result in columns from ``column`` to ``until``: in bulk by ``staging``, or those before ``end``."""
    if row + 64 <= end:
        staging.store(total.to(out.dtype))
        fence_async_shared()
        tma.async_copy_shared_to_global(out, [row, column], staging)
    elif row < end:
        r = row + gl.arange(0, 64, gl.SliceLayout(1, mma))
        c = column + gl.arange(0, 128, gl.SliceLayout(0, mma))
        where = gl.expand_dims(r.to(gl.int64) * stride, 1) + gl.expand_dims(c, 0)
        mask = gl.expand_dims(r < end, 1) & gl.expand_dims(c < until, 0)
        gl.store(out_pointer + where, total.to(out.dtype), mask=mask)


@launched
@gluon.jit
def _grouped_kernel(
    a, b, sa, sb, sb_pointer, sb_stride, ends, out, out_pointer, out_stride, experts, rows, cols, k_blocks,
    period, ahead, gap,
    STAGES: gl.constexpr, WGRAD: gl.constexpr, GROUP: gl.constexpr, HALVES: gl.constexpr,
):  # fmt: skip
    """A result's column c is written ``gap`` columns further for each ``period`` of c + ``ahead``."""
    a_ring = gl.allocate_shared_memory(a.dtype, [2 * HALVES * STAGES, 64, 128], a.layout)
    b_ring = gl.allocate_shared_memory(b.dtype, [STAGES, 128, 128], b.layout)
    sa_ring = gl.allocate_shared_memory(gl.float32, [2 * HALVES * STAGES, 1, 64], sa.layout)
    sb_ring = gl.allocate_shared_memory(gl.float32, [STAGES if WGRAD else 1, 1, 128], sb.layout)
    staging = gl.allocate_shared_memory(out.dtype, [2 * HALVES, 64, 128], out.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    buffers = (a_ring, b_ring, sa_ring, sb_ring, full, empty)
    gl.warp_specialize(
        [
            (_consume, (sb_pointer, sb_stride, ends, out, out_pointer, out_stride, buffers, staging, experts, rows,
                        cols, k_blocks, period, ahead, gap, gl.constexpr(0), WGRAD, GROUP, HALVES)),
            (_consume, (sb_pointer, sb_stride, ends, out, out_pointer, out_stride, buffers, staging, experts, rows,
                        cols, k_blocks, period, ahead, gap, gl.constexpr(1), WGRAD, GROUP, HALVES)),
            (_produce, (a, b, sa, sb, ends, buffers, experts, rows, cols, k_blocks, WGRAD, GROUP, HALVES)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
