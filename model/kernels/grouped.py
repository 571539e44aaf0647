"""Grouped block-FP8 matrix products on Hopper: forward, gradient of the input (Dgrad) and of the weight (Wgrad).

A persistent kernel of three roles per multiprocessor: one warp fetches tiles through tensor descriptors into a ring of
shared memory, and two warp groups of 64 rows each multiply. Tensor cores keep about 14 bits of an FP8 sum, so each
block of 128 along the contraction is multiplied on its own and added in FP32 with its scales (DeepSeek-V3 report,
section 3.3.2). While one warp group does that addition, the other has the tensor cores; neither waits for the other,
only for the ring.

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


@gluon.jit
def _place(local, m_tiles, n_tiles, GROUP: gl.constexpr):
    """Row and column tile number ``local`` of an expert, column by column within groups of row tiles."""
    width = GROUP * n_tiles
    first = (local // width) * GROUP
    size = gl.minimum(m_tiles - first, GROUP)
    rest = local % width
    return first + rest % size, rest // size


@gluon.jit
def _expert(e, ends, rows, k_blocks, WGRAD: gl.constexpr):
    """(first token, end, row tiles, first block of the contraction, its number of blocks) of expert e."""
    start = gl.load(ends + e - 1, mask=e > 0, other=0)
    end = gl.load(ends + e)
    if WGRAD:
        return start, end, (rows + 127) // 128, start // 128, (end - start) // 128
    else:  # noqa: RET505 - a compile-time branch
        return start, end, (end - start + 127) // 128, start * 0, k_blocks


@gluon.jit
def _produce(a, b, sa, sb, ends, buffers, experts, rows, cols, k_blocks, WGRAD: gl.constexpr, GROUP: gl.constexpr):
    a_ring, b_ring, sa_ring, sb_ring, full, empty = buffers
    STAGES: gl.constexpr = full.shape[0]
    bytes: gl.constexpr = 2 * 128 * 128 + 4 * 128 + (4 * 128 if WGRAD else 0)
    n_tiles = (cols + 127) // 128
    tile = gl.program_id(0)
    base = 0
    step = 0
    for e in range(experts):
        start, _, m_tiles, first_block, blocks = _expert(e, ends, rows, k_blocks, WGRAD)
        while tile < base + m_tiles * n_tiles:
            m, n = _place(tile - base, m_tiles, n_tiles, GROUP)
            a_row = m * 128 + (0 if WGRAD else start)
            b_row = n * 128 + (0 if WGRAD else e * cols)
            for block in range(first_block, first_block + blocks):
                stage = step % STAGES
                mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
                ready = full.index(stage)
                mbarrier.expect(ready, bytes)
                for half in gl.static_range(2):
                    slot = 2 * stage + half
                    tma.async_copy_global_to_shared(a, [a_row + 64 * half, block * 128], ready, a_ring.index(slot))
                    tma.async_copy_global_to_shared(sa, [block, a_row + 64 * half], ready, sa_ring.index(slot))
                tma.async_copy_global_to_shared(b, [b_row, block * 128], ready, b_ring.index(stage))
                if WGRAD:
                    tma.async_copy_global_to_shared(sb, [block, b_row], ready, sb_ring.index(stage))
                step += 1
            tile += gl.num_programs(0)
        base += m_tiles * n_tiles


@gluon.jit
def _consume(
    sb_pointer, sb_stride, ends, out, out_pointer, buffers, staging, experts, rows, cols, k_blocks,
    HALF: gl.constexpr, WGRAD: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    a_ring, b_ring, sa_ring, sb_ring, full, empty = buffers
    STAGES: gl.constexpr = full.shape[0]
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32])
    row_layout: gl.constexpr = gl.SliceLayout(1, mma)
    col_layout: gl.constexpr = gl.SliceLayout(0, mma)
    flat: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    n_tiles = (cols + 127) // 128
    tile = gl.program_id(0)
    base = 0
    step = 0
    zero = gl.zeros([64, 128], gl.float32, mma)
    for e in range(experts):
        start, end, m_tiles, _, blocks = _expert(e, ends, rows, k_blocks, WGRAD)
        while tile < base + m_tiles * n_tiles:
            m, n = _place(tile - base, m_tiles, n_tiles, GROUP)
            scales = sb_pointer + (e * n_tiles + n) * sb_stride
            total = gl.zeros([64, 128], gl.float32, mma)
            for block in range(blocks):
                stage = step % STAGES
                if not WGRAD:
                    scale_b = gl.load(scales + block)
                mbarrier.wait(full.index(stage), (step // STAGES) & 1)
                slot = 2 * stage + HALF
                product = warpgroup_mma(
                    a_ring.index(slot), b_ring.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True
                )
                scale_a = sa_ring.index(slot)._reinterpret(gl.float32, [64], flat).load(row_layout)
                if WGRAD:
                    scale_col = sb_ring.index(stage)._reinterpret(gl.float32, [128], flat).load(col_layout)
                    product = warpgroup_mma_wait(0, [product])
                    mbarrier.arrive(empty.index(stage), count=1)
                    total += product * gl.expand_dims(scale_a, 1) * gl.expand_dims(scale_col, 0)
                else:
                    product = warpgroup_mma_wait(0, [product])
                    mbarrier.arrive(empty.index(stage), count=1)
                    total += product * gl.expand_dims(scale_a * scale_b, 1)
                step += 1

            row = m * 128 + 64 * HALF + (e * rows if WGRAD else start)
            row_end = (e + 1) * rows if WGRAD else end
            if row + 64 <= row_end:
                tma.store_wait(0)
                staging.store(total.to(out.dtype))
                fence_async_shared()
                tma.async_copy_shared_to_global(out, [row, n * 128], staging)
            else:
                r = row + gl.arange(0, 64, row_layout)
                c = n * 128 + gl.arange(0, 128, col_layout)
                where = gl.expand_dims(r.to(gl.int64) * cols, 1) + gl.expand_dims(c, 0)
                mask = gl.expand_dims(r < row_end, 1) & gl.expand_dims(c < cols, 0)
                gl.store(out_pointer + where, total.to(out.dtype), mask=mask)
            tile += gl.num_programs(0)
        base += m_tiles * n_tiles
    tma.store_wait(0)


@gluon.jit
def _grouped_kernel(
    a, b, sa, sb, sb_pointer, sb_stride, ends, out, out_pointer, experts, rows, cols, k_blocks,
    STAGES: gl.constexpr, WGRAD: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    a_ring = gl.allocate_shared_memory(a.dtype, [2 * STAGES, 64, 128], a.layout)
    b_ring = gl.allocate_shared_memory(b.dtype, [STAGES, 128, 128], b.layout)
    sa_ring = gl.allocate_shared_memory(gl.float32, [2 * STAGES, 1, 64], sa.layout)
    sb_ring = gl.allocate_shared_memory(gl.float32, [STAGES if WGRAD else 1, 1, 128], sb.layout)
    staging = gl.allocate_shared_memory(out.dtype, [2, 64, 128], out.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    buffers = (a_ring, b_ring, sa_ring, sb_ring, full, empty)
    gl.warp_specialize(
        [
            (_consume, (sb_pointer, sb_stride, ends, out, out_pointer, buffers, staging.index(0), experts, rows, cols,
                        k_blocks, gl.constexpr(0), WGRAD, GROUP)),
            (_consume, (sb_pointer, sb_stride, ends, out, out_pointer, buffers, staging.index(1), experts, rows, cols,
                        k_blocks, gl.constexpr(1), WGRAD, GROUP)),
            (_produce, (a, b, sa, sb, ends, buffers, experts, rows, cols, k_blocks, WGRAD, GROUP)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
