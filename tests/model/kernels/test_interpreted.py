"""The kernels that Triton's interpreter can run, on a CPU, beside their references. The interpreter rounds E4M3 wrongly
where rounding carries into the next power of two, so codes are compared on numbers that E4M3 holds exactly.

Triton chooses its interpreter when it is imported, hence a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from model import fp8
from model.kernels.quantize import Segments, quantize_blocks, quantize_both, swiglu_quantize
from model.kernels.rows import permute, unpermute
from model.kernels.router import route

torch.manual_seed(0)
def exact(*shape):  # E4M3 numbers whose every 128x128 block, row and column of it has amax 448
    x = torch.randint(-8, 9, shape).float()
    x[..., ::128, :] = 448.0
    x[..., :, ::128] = 448.0
    return x

counts = torch.tensor([0, 130, 0, 70])
segments = Segments.of(counts)
x = exact(200, 320)
x[130] = 448.0
rows, columns = quantize_both(x, segments, powers_of_two=False)
expected = fp8.quantize_tiles(x)
assert torch.equal(rows.scale, expected.scale) and torch.equal(rows.data.float(), expected.data.float())
assert torch.equal(columns.data[:, 256:326].float(), x[130:].T) and not columns.data[:, 326:384].float().any()
w = exact(2, 200, 320)
q, turned = quantize_blocks(w, transpose=True)
assert torch.equal(q.data.float(), w) and torch.equal(turned.data.float(), w.mT)
assert torch.equal(q.scale, fp8.quantize_blocks(w).scale) and torch.equal(turned.scale, q.scale.mT)
rows, _ = swiglu_quantize(torch.randn(5, 256), torch.rand(5), powers_of_two=True)
assert bool((rows.scale.log2() % 1 == 0).all())

y, k = torch.randn(10, 72), 3
order = torch.randperm(30)
moved = permute(y, order, k)
assert torch.equal(moved, y[order // k])
gates = torch.rand(10, k)
torch.testing.assert_close(unpermute(moved, order.argsort().view(10, k), gates), y * gates.sum(1, keepdim=True))

logits, bias = torch.randn(33, 24), torch.randn(24) * 0.1
scores, indices, gates, counts = route(logits, bias, k=4, groups=4, kept=2, factor=2.5)
torch.testing.assert_close(scores, logits.sigmoid())
choice = (scores + bias).unflatten(-1, (4, -1))
best = choice.topk(2, -1).values.sum(-1).topk(2, -1).indices
keep = torch.zeros(33, 4, dtype=torch.bool).scatter(-1, best, True)
top = choice.masked_fill(~keep.unsqueeze(-1), float("-inf")).flatten(-2).topk(4, -1).indices
assert torch.equal(indices, top)
chosen = scores.gather(-1, top)
torch.testing.assert_close(gates, chosen / chosen.sum(-1, keepdim=True) * 2.5)
assert torch.equal(counts, torch.bincount(top.flatten(), minlength=24))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton, of which there is none here")
def test_the_kernels_are_their_references_under_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_importing_the_model_does_not_import_triton() -> None:
    program = "import sys, model, model.kernels, jobs.bench; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
