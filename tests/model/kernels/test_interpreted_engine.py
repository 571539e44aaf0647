"""The engine's kernels under Triton's interpreter: a row alone, which takes the paths for few rows, and among many."""

from __future__ import annotations

from tests.model.kernels import interpreter

PROGRAM = """
import torch
from model import fp8
from model.engine import Sampling
from model.kernels import invariant, latent, stream
from model.kernels.invariant import Chosen, Weight, experts, experts_swiglu, linear, linear_quantized
from model.kernels.latent import Places
from model.sampling import draw
from model.sampling import keys as keys_of

torch.manual_seed(0)
near = {"atol": 1e-5, "rtol": 1e-5}

# Attention: each span by a program of its own, and all of them by one.
latent.SPAN = 128
positions = torch.tensor([5, 127, 128, 299], dtype=torch.int32)
table, pool = torch.randperm(20).int().view(4, 5), torch.randn(20, 64, 32)
turns = torch.view_as_real(torch.polar(torch.ones(400, 8), torch.rand(400, 8))).contiguous()
places = Places(torch.arange(4, dtype=torch.int32), positions, table)
absorbed, q = torch.randn(4, 2, 16), torch.randn(4, 2, 32)
split = latent.attend(absorbed, q, turns, pool, places, 0.3)
latent.SPLIT_HEADS = 0
assert torch.equal(split, latent.attend(absorbed, q, turns, pool, places, 0.3))
pairs = torch.view_as_complex(q[..., 16:].unflatten(-1, (-1, 2)))
turned = torch.view_as_real(pairs * torch.view_as_complex(turns)[positions.long()].unsqueeze(1)).flatten(-2)
for row, last in enumerate(positions.tolist()):
    keys = pool[table[row].long()].flatten(0, 1)[: last + 1]
    score = (torch.cat([absorbed[row], turned[row]], -1) @ keys.T * 0.3).softmax(-1)
    torch.testing.assert_close(split[row], score @ keys[:, :16], **near)

# How far streams are off, and a row of zeros, and one that holds what is not a number.
ours, theirs, off = torch.randn(4, 3, 20), torch.randn(4, 3, 20), torch.empty(4)
theirs[1, 2] = ours[1, 2] = 0
stream.distances(ours, theirs, off)
norms = [torch.linalg.vector_norm(x, dim=-1) for x in (ours - theirs, theirs)]
torch.testing.assert_close(off, (norms[0] / norms[1]).nan_to_num().mean(-1), **near)
for holder in (ours, theirs):
    before, holder[2, 1, 7] = holder[2, 1, 7].clone(), float("nan")
    stream.distances(ours, theirs, off)
    assert off.isnan().tolist() == [False, False, True, False]
    holder[2, 1, 7] = before

# Experts: a program that knows its expert from the start, and one that finds it.
def chosen(tokens):
    indices = torch.rand(tokens, 3).argsort(-1)[:, :2]
    entries = torch.arange(2 * tokens).view(tokens, 2)
    lists, counts = torch.zeros(3, tokens, dtype=torch.int32), torch.zeros(3, dtype=torch.int32)
    for expert in range(3):
        own = entries[indices == expert]
        lists[expert, : len(own)], counts[expert] = own.int(), len(own)
    return indices, Chosen(torch.rand(tokens, 2), lists, counts)
gate_up, down = torch.randn(3, 32, 16), torch.randn(3, 16, 16)
for tokens in (5, 70):
    indices, where = chosen(tokens)
    x = torch.randn(tokens, 16)
    inner = experts_swiglu(x, Weight(gate_up), where)
    gate, up = torch.einsum("tk,tcnk->tcn", x, gate_up[indices]).chunk(2, -1)
    expected = torch.nn.functional.silu(gate) * up * where.gates.unsqueeze(-1)
    torch.testing.assert_close(inner.view(tokens, 2, 16), expected, **near)
    expected = torch.einsum("tck,tcnk->tcn", expected, down[indices])
    torch.testing.assert_close(experts(inner, Weight(down), where), expected, **near)

# What is quantised where it is made: but for the interpreter's carries, the codes of the reference.
def coded(q, expected):
    torch.testing.assert_close(q.scale, fp8.quantize_tiles(expected).scale, **near)
    wrong = (fp8.dequantize_tiles(q) - expected).abs() > expected.abs() / 15 + q.scale.repeat_interleave(128, -1) / 512
    assert float(wrong.float().mean()) < 0.06
x, parts, weight = torch.randn(3, 256), torch.randn(3, 2, 256), torch.rand(256)
total, normed, codes = stream.add_norm(x, parts, weight, 1e-6, quantized=True)
torch.testing.assert_close(total, x + parts.sum(1), **near)
torch.testing.assert_close(normed, torch.nn.functional.rms_norm(total, (256,), weight, 1e-6), **near)
coded(codes, normed)
x, w = torch.randn(3, 2, 32), torch.randn(2, 128, 32)
coded(linear_quantized(x, Weight(w)), torch.einsum("mbk,bnk->mbn", x, w).flatten(1))
torch.testing.assert_close(linear(x, Weight(w)), torch.einsum("mbk,bnk->mbn", x, w), **near)
x, w = torch.randn(3, 1024), Weight(torch.randn(48, 1024))
few = invariant.linear_parts(x, w)
invariant.FEW_ROWS = 0
many = invariant.linear_parts(x, w)
assert few.shape == (3, 4, 48) and many.shape == (3, 1, 48)
for parts in (few, many):
    torch.testing.assert_close(parts.sum(1), x @ w.data.T, atol=1e-4, rtol=1e-4)
torch.testing.assert_close(few[:, 1], x[:, 256:512] @ w.data[:, 256:512].T, atol=1e-4, rtol=1e-4)

# Draws, over several blocks of the vocabulary; the last token's number is past the row's last one.
stream.SCAN = 64
logits, own = 3 * torch.randn(40, 300), torch.from_numpy(keys_of(1, 45)).view(5, 9)
rows, numbers = torch.randint(0, 5, (40,), dtype=torch.int32), torch.randint(0, 9, (40,), dtype=torch.int32)
numbers[-1] = 9
for sampling in (Sampling(0.8), Sampling(0.0)):
    heat, greedy = torch.tensor([sampling.temperature or 1.0]), sampling.temperature == 0
    tokens, logp = stream.draw(logits, own, rows, numbers, heat, greedy=greedy)
    expected = draw(logits, own[rows, numbers.clamp(max=8)], sampling)
    assert tokens.tolist() == expected[0].tolist()
    torch.testing.assert_close(logp, expected[1], **near)
"""


def test_the_engine_s_kernels_are_their_references_under_the_interpreter() -> None:
    done = interpreter.run(PROGRAM)
    assert done.returncode == 0, done.stderr[-3000:]
