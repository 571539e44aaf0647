"""`zeroth bench kernels`: each GPU kernel's TFLOP/s or GB/s with BF16 beside it in the same run, its rivals where they
are installed, the machine's limit and the ratio to it.

Products count 2 M N K operations; kernels that move memory count each input and output byte once. Times are medians of
device events with a cold L2 cache, on random data. The limit of products is the vendor's dense FP8 rate, that of the
others the copy bandwidth measured in the same run. ``error`` is relative in norm against FP64 on the decoded operands,
over a sample of rows.
"""

# torch leaves events and some tensor methods untyped, and lambdas that bind a loop's variable have no inferred type.
# mypy: disable-error-code="no-untyped-call, misc"

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import console
from jobs.options import AsJson, Out

if TYPE_CHECKING:
    from torch import Tensor

    from model.fp8 import Quantized

FP8_TFLOPS = 1979.0
"""Dense FP8 of an H100 or H200 SXM, from the vendor's datasheet."""
GROUPED = [(8, 32768, 4096, 7168), (8, 32768, 2048, 7168), (8, 32768, 7168, 2048), (64, 49152, 1024, 2048)]
"""Experts, tokens, N, K; tokens fall on the experts evenly, as in the published figures."""
UNEVEN = (64, 49152, 1024, 2048)
DENSE = [(4096, 4096, 7168), (4096, 7168, 2048), (4096, 2112, 7168), (8192, 8192, 8192)]
REST = 0.1
"""Seconds before each measurement."""
Row = dict[str, Any]
Clock = Callable[..., float]


def command(
    milliseconds: Annotated[int, typer.Option(min=10, help="Time spent on each measurement.")] = 100,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """GPU kernels beside BF16 and their rivals, and the machine's limit."""
    from rich.table import Table

    from jobs.bench import record

    results = record.stamped(measure(milliseconds))
    if as_json or out:
        record.emit(results, out)
    table = Table("kernel", "shape", "unit", "ours", "BF16", "rivals", "of the limit", "times BF16", "error")
    for row in results["kernels"]:
        rivals = ", ".join(f"{name} {value:,.0f}" for name, value in row["rivals"].items())
        bf16, times = (f"{row['bf16']:,.0f}", f"{row['ours'] / row['bf16']:.2f}") if row["bf16"] else ("-", "-")
        error = f"{row['error']:.1e}" if row["error"] is not None else "-"
        share = f"{row['ours'] / row['limit']:.0%}"
        table.add_row(
            row["kernel"], row["shape"], row["unit"], f"{row['ours']:,.0f}", bf16, rivals, share, times, error
        )
    console.console.print(table)


def measure(milliseconds: int) -> dict[str, Any]:
    import torch

    from jobs.config import RecipeError

    if importlib.util.find_spec("triton") is None:
        raise RecipeError("zeroth bench kernels needs triton: pip install 'zeroth[gpu]'")
    if not torch.cuda.is_available():
        raise RecipeError("zeroth bench kernels needs a CUDA device, and torch sees none on this machine")
    torch.manual_seed(0)
    device = torch.cuda.get_device_properties(0)
    clock = make_clock(milliseconds)
    copy = copy_bandwidth(clock)
    rows: list[Row] = []
    hopper = device.major == 9
    for part in (_quantize, _rows, _router):
        rows += part(clock, copy)
    if hopper:
        rows += _grouped(clock) + _dense(clock)
    return {
        "bench": "kernels",
        "gpu": {"name": device.name, "multiprocessors": device.multi_processor_count, "copy_gb_per_s": copy},
        "kernels": rows,
    }


def make_clock(milliseconds: int) -> Clock:
    """Seconds of a call: the median of replays of its CUDA graph, so that no launch is timed, each after the L2 cache
    was flushed, and all after a rest: the clock falls with heat, which is not to depend on what was measured before.
    ``graph=False`` for calls that wait for the device."""
    import torch

    flush = torch.empty(2**28, dtype=torch.int8, device="cuda")

    def seconds(call: Callable[[], object], graph: bool = True) -> float:
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        if graph:
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded):
                call()
            call = recorded.replay
        time.sleep(REST)
        timed: list[float] = []
        while len(timed) < 10 or sum(timed) < milliseconds / 1e3:
            marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(10)]
            for start, end in marks:
                flush.zero_()
                start.record()
                call()
                end.record()
            torch.cuda.synchronize()
            timed += [start.elapsed_time(end) / 1e3 for start, end in marks]
        return statistics.median(timed)

    return seconds


def _row(kernel: str, shape: str, unit: str, ours: float, limit: float, bf16: float | None = None, **more: Any) -> Row:
    return {
        "kernel": kernel, "shape": shape, "unit": unit, "ours": ours, "bf16": bf16, "limit": limit,
        "rivals": more.get("rivals", {}), "error": more.get("error"),
    }  # fmt: skip


def copy_bandwidth(clock: Clock) -> float:
    """GB/s, read and written, of a copy within the device's memory."""
    import torch

    source = torch.randn(2**28, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 2 * source.nbytes / clock(lambda: target.copy_(source), graph=False) / 1e9


def _random(*shape: int) -> Tensor:
    import torch

    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def _quantize(clock: Clock, copy: float) -> list[Row]:
    from model.kernels.quantize import quantize_blocks, quantize_both, quantize_tiles, swiglu_quantize

    m, k = 32768, 7168
    x, w = _random(m, k), _random(8, 4096, 7168)
    cases: list[tuple[str, str, float, Callable[[], object]]] = []
    for powers in (False, True):
        scales = ", powers of two" if powers else ""
        cases += [
            (f"quantize 1x128{scales}", f"{m}x{k}", 3 + 4 / 128, lambda p=powers: quantize_tiles(x, powers_of_two=p)),
            (f"quantize 1x128 and 128x1{scales}", f"{m}x{k}", 4 + 8 / 128,
             lambda p=powers: quantize_both(x, powers_of_two=p)),
            (f"quantize 128x128{scales}", "8x4096x7168", 3, lambda p=powers: quantize_blocks(w, powers_of_two=p)),
        ]  # fmt: skip
    cases += [
        ("quantize 128x128 and transposed", "8x4096x7168", 4, lambda: quantize_blocks(w, transpose=True)),
        ("SwiGLU and 1x128 and 128x1", f"{m}x{k}", (2 + 1 + 4 / 128), lambda: swiglu_quantize(x)),
    ]
    return [_row(name, shape, "GB/s", m * k * size / clock(call) / 1e9, copy) for name, shape, size, call in cases]


def _rows(clock: Clock, copy: float) -> list[Row]:
    import torch

    from model.kernels.rows import permute, places, unpermute

    tokens, k, hidden = 8192, 6, 2048
    x = _random(tokens, hidden)
    indices = torch.randint(0, 64, (tokens, k), device="cuda")
    found, order = places(indices, torch.bincount(indices.flatten(), minlength=64)), indices.flatten().argsort()
    place = found.place
    y, gates = permute(x, found), torch.rand(tokens, k, device="cuda")
    moved = x.nbytes * (1 + k) / 1e9
    eager = moved / clock(lambda: y.index_select(0, place.flatten()).view(tokens, k, -1).mul(gates[..., None]).sum(1))
    shape = f"{tokens}x{hidden}, k={k}"
    return [
        _row("permute", shape, "GB/s", moved / clock(lambda: permute(x, found)), copy,
             rivals={"torch": moved / clock(lambda: x.index_select(0, order // k))}),
        _row("unpermute", shape, "GB/s", moved / clock(lambda: unpermute(y, place, gates)), copy,
             rivals={"torch": eager}),
    ]  # fmt: skip


def _router(clock: Clock, copy: float) -> list[Row]:
    import torch

    from model.kernels.router import route

    rows = []
    for tokens, experts, k in ((32768, 64, 6), (32768, 256, 8)):
        logits, bias = torch.randn(tokens, experts, device="cuda"), torch.zeros(experts, device="cuda")
        moved = (2 * logits.nbytes + tokens * k * 12) / 1e9

        def eager(logits: Tensor = logits, bias: Tensor = bias, experts: int = experts, k: int = k) -> object:
            scores = logits.sigmoid()
            grouped = (scores + bias).unflatten(-1, (8, -1))
            best = grouped.topk(2, -1).values.sum(-1).topk(4, -1).indices
            keep = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, True)
            indices = grouped.masked_fill(~keep.unsqueeze(-1), float("-inf")).flatten(-2).topk(k, -1).indices
            gates = scores.gather(-1, indices)
            return gates / gates.sum(-1, keepdim=True), torch.bincount(indices.flatten(), minlength=experts)

        ours = clock(lambda logits=logits, bias=bias, k=k: route(logits, bias, k=k, groups=8, kept=4))
        rivals = {"torch": moved / clock(eager, graph=False)}
        rows.append(_row("router", f"{tokens}x{experts}, k={k}", "GB/s", moved / ours, copy, rivals=rivals))
    return rows


def _counts(experts: int, tokens: int, uneven: bool) -> list[int]:
    """Even, or falling as 1 / rank with one expert left empty."""
    if not uneven:
        return [tokens // experts] * experts
    share = [1 / (e + 4) for e in range(experts - 1)]
    counts = [int(tokens * s / sum(share)) for s in share]
    return [0, counts[0] + tokens - sum(counts), *counts[1:]]


def _grouped(clock: Clock) -> list[Row]:
    rows = []
    for shape, uneven in [*((shape, False) for shape in GROUPED), (UNEVEN, True)]:
        rows += _grouped_case(clock, *shape, uneven=uneven)
    return rows


def _grouped_case(clock: Clock, experts: int, m: int, n: int, k: int, *, uneven: bool) -> list[Row]:
    import torch
    from torch.nn import functional as F

    from model.kernels.products import grouped_matmul, grouped_wgrad, library_for
    from model.kernels.quantize import quantize_blocks, quantize_placed, quantize_tiles
    from model.kernels.rows import places

    counts = torch.tensor(_counts(experts, m, uneven), device="cuda")
    found = places(torch.arange(experts, device="cuda").repeat_interleave(counts).unsqueeze(-1), counts)
    ends = counts.cumsum(0, dtype=torch.int32)
    x, dy, w = _random(m, k), _random(m, n), _random(experts, n, k) / k**0.5
    (x_rows, x_columns), (dy_rows, dy_columns) = (quantize_placed(a, quantize_tiles(a), found) for a in (x, dy))
    w_rows, w_turned = quantize_blocks(w, transpose=True)
    assert w_turned is not None
    work = 2 * m * n * k / 1e12
    bf16 = [
        work / clock(lambda: F.grouped_mm(x, w.mT, offs=ends)),
        work / clock(lambda: F.grouped_mm(dy, w, offs=ends)),
        work / clock(lambda: F.grouped_mm(dy.T, x, offs=ends)),
    ]
    name = f"E={experts} M={m} {n}x{k}{' uneven' if uneven else ''}"
    out = grouped_matmul(x_rows, w_rows, found.ends, ours=True)
    error = _error(x_rows, w_rows, [-(-n // 128) * 128 for n in counts.tolist()], out)
    rows = []
    for kernel, a, b, base, wrong in (
        ("grouped forward", x_rows, w_rows, bf16[0], error),
        ("grouped dgrad", dy_rows, w_turned, bf16[1], None),
    ):
        ours = work / clock(lambda a=a, b=b: grouped_matmul(a, b, found.ends, ours=True))
        rivals = {"DeepGEMM": work / clock(lambda a=a, b=b: grouped_matmul(a, b, found.ends))} if library_for(b) else {}
        rows.append(_row(kernel, name, "TFLOP/s", ours, FP8_TFLOPS, base, rivals=rivals, error=wrong))
    wgrad = work / clock(lambda: grouped_wgrad(dy_columns, x_columns, found.ends))
    return [
        *rows,
        _row("grouped wgrad, FP32 out", name, "TFLOP/s", wgrad, FP8_TFLOPS, bf16[2]),
    ]


def _dense(clock: Clock) -> list[Row]:
    import torch

    from model.kernels.products import has_scaled_mm, matmul, wgrad
    from model.kernels.quantize import quantize_blocks, quantize_both

    rows = []
    for m, n, k in DENSE:
        x, dy, w = _random(m, k), _random(m, n), _random(n, k) / k**0.5
        (x_q, x_columns), (_, dy_columns) = quantize_both(x), quantize_both(dy)
        w_q, _ = quantize_blocks(w.unsqueeze(0))
        work = 2 * m * n * k / 1e12
        bf16 = work / clock(lambda x=x, w=w: x @ w.T)
        ours = work / clock(lambda x_q=x_q, w_q=w_q: matmul(x_q, w_q, ours=True))
        error = _error(x_q, w_q, [m], matmul(x_q, w_q, ours=True))
        rivals = (
            {"cuBLASLt": work / clock(lambda x_q=x_q, w_q=w_q: matmul(x_q, w_q, ours=False))} if has_scaled_mm() else {}
        )
        rows.append(_row("dense", f"{m}x{n}x{k}", "TFLOP/s", ours, FP8_TFLOPS, bf16, rivals=rivals, error=error))
        base = work / clock(lambda dy=dy, x=x: torch.mm(dy.T, x, out_dtype=torch.float32))
        back = work / clock(lambda a=dy_columns, b=x_columns: wgrad(a, b, ours=True))
        rivals = {"cuBLASLt": work / clock(lambda a=dy_columns, b=x_columns: wgrad(a, b, ours=False))} if rivals else {}
        rows.append(_row("dense wgrad, FP32 out", f"{m}x{n}x{k}", "TFLOP/s", back, FP8_TFLOPS, base, rivals=rivals))
    return rows


def _error(x: Quantized, w: Quantized, counts: list[int], out: Tensor) -> float:
    """Of `out` [M, N] against FP64, over up to 64 rows of each of 8 experts."""
    from model.fp8 import Quantized, dequantize_blocks, dequantize_tiles

    wrong, size, start = 0.0, 0.0, 0
    for e, count in enumerate(counts):
        if e % max(1, len(counts) // 8) == 0 and count:
            rows = slice(start, start + min(64, count))
            w_e = dequantize_blocks(Quantized(w.data[e], w.scale[e])).double()
            expected = dequantize_tiles(Quantized(x.data[rows], x.scale[rows])).double() @ w_e.T
            wrong += float((out[rows].double() - expected).square().sum())
            size += float(expected.square().sum())
        start += count
    return float((wrong / size) ** 0.5)
