"""The kernels that Triton's interpreter can run, on a CPU, beside their references. The interpreter rounds E4M3 wrongly
where rounding carries into the next power of two, so codes are compared on numbers that E4M3 holds exactly."""

from __future__ import annotations

import subprocess
import sys

from tests.model.kernels import interpreter

PROGRAM = """
import torch
from model import digest, fp8
from model.kernels import elementwise, reshaped
from model.kernels.invariant import Weight
from model.kernels.transfer import Passing, Quantizing, Transfer, word_sums
from model.kernels.quantize import (
    quantize_blocks, quantize_both, quantize_normed, quantize_placed, quantize_tiles, swiglu_backward, swiglu_quantize,
)
from model.kernels.rows import experts_of_rows, permute, places, unpermute, unpermute_onto
from model.kernels.router import route, route_backward

torch.manual_seed(0)
def exact(*shape):  # E4M3 numbers whose every 128x128 block, row and column of it has amax 448
    x = torch.randint(-8, 9, shape).float()
    x[..., ::128, :] = 448.0
    x[..., :, ::128] = 448.0
    return x

counts = torch.tensor([0, 130, 0, 70])
found = places(torch.arange(4).repeat_interleave(counts).unsqueeze(-1), counts)
assert found.ends.tolist() == [0, 256, 256, 384] and found.place[[0, 129, 130, 199], 0].tolist() == [0, 129, 256, 325]
assert experts_of_rows(found.ends, 500).tolist() == [1] * 256 + [3] * 128 + [-1] * 116
x = exact(200, 320)
x[130] = 448.0
rows, columns = quantize_both(x)
expected, at = fp8.quantize_tiles(x), found.place[:, 0]
assert torch.equal(rows.data.float(), expected.data.float()) and torch.equal(columns.data[:, :200].float(), x.T)
rows, columns = quantize_placed(x, quantize_tiles(x), found)
assert torch.equal(rows.scale[at], expected.scale) and torch.equal(rows.data[at].float(), expected.data.float())
assert not rows.data[326:384].float().any()
assert torch.equal(columns.data[:, 256:326].float(), x[130:].T) and not columns.data[:, 326:384].float().any()
w = exact(2, 200, 320)
q, turned = quantize_blocks(w, transpose=True)
assert torch.equal(q.data.float(), w) and torch.equal(turned.data.float(), w.mT)
assert torch.equal(q.scale, fp8.quantize_blocks(w).scale) and torch.equal(turned.scale, q.scale.mT)
out = fp8.Quantized(torch.empty_like(w, dtype=torch.float8_e4m3fn), torch.empty(fp8.scale_shape(w)))
quantize_blocks(w, out=out)
assert torch.equal(out.data.float(), w) and torch.equal(out.scale, q.scale)
for tiles in swiglu_quantize(torch.randn(5, 256), powers_of_two=True):
    assert bool((tiles.scale.log2() % 1 == 0).all())

y, k = torch.randn(10, 72), 2
indices = torch.rand(10, 3).argsort(-1)[:, :k]
found = places(indices, torch.bincount(indices.flatten(), minlength=3))
moved = permute(y, found)
assert torch.equal(moved[found.place], y.unsqueeze(1).expand(-1, k, -1)) and not moved[found.choice < 0][:100].any()
gates, base = torch.rand(10, k), torch.randn(10, 72)
sums = y * gates.sum(1, keepdim=True)
torch.testing.assert_close(unpermute(moved, found.place, gates), sums)
torch.testing.assert_close(unpermute(moved, found.place, gates, base), sums + base)
torch.testing.assert_close(unpermute(moved, found.place, gates, base, y), sums + base + y)
onto, inverse = unpermute_onto(moved, found.place, base, y, 1e-6)
torch.testing.assert_close(onto, (k + 1) * y + base)
torch.testing.assert_close(inverse, (onto.square().mean(1) + 1e-6).rsqrt())

# SwiGLU with gates: forward and gradients, with and without rounding to FP8
def gated(gate_up, gates):
    gate, up = gate_up.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up * gates.view(-1, 1)
chosen = found.choice[found.place.flatten()]
gate_up, dh = torch.randn(len(found.choice), 256), torch.randn(len(found.choice), 128)
inside = found.place.flatten()
leaf, gate_leaf = gate_up[inside].requires_grad_(), gates.clone().requires_grad_()
expected = gated(leaf, gate_leaf)
expected.backward(dh[inside])
torch.testing.assert_close(elementwise.swiglu(gate_up, gates, found)[inside], expected)
d, d_gates = elementwise.swiglu_backward(gate_up, dh, gates, found)
torch.testing.assert_close(d[inside], leaf.grad)
torch.testing.assert_close(d_gates[found.place], gate_leaf.grad)
grads = swiglu_backward(gate_up, dh, gates, found)
torch.testing.assert_close(grads.d_gates[found.place], gate_leaf.grad)

def close(q, expected):  # but for the interpreter's carries, some 3 in 100 numbers
    step = q.scale.repeat_interleave(128, -1)[:, : expected.shape[1]] * 2**-9
    wrong = (fp8.dequantize_tiles(q) - expected).abs() > expected.abs() / 15 + step
    assert float(wrong.float().mean()) < 0.06
close(fp8.Quantized(grads.d_rows.data[inside], grads.d_rows.scale[inside]), leaf.grad)
everywhere = torch.zeros(len(found.choice), 256)
everywhere[inside] = leaf.grad
total = int(found.ends[-1])
columns = grads.d_columns
close(fp8.Quantized(columns.data[:, :total], columns.scale[:, : total // 128]), everywhere[:total].T)
hidden = torch.zeros(len(found.choice), 128)
hidden[inside] = expected.detach()
rows, columns = swiglu_quantize(gate_up, gates, found)
close(fp8.Quantized(rows.data[inside], rows.scale[inside]), expected.detach())
close(fp8.Quantized(columns.data[:, :total], columns.scale[:, : total // 128]), hidden[:total].T)

from model import rope
x, turns = torch.randn(9, 3, 24).bfloat16(), rope.rotations(torch.arange(9), torch.rand(4))
expected = rope.rotate_tail(x, turns.unsqueeze(1), 16)
near = {"rtol": 2**-6, "atol": 2**-7}  # the interpreter cuts BF16 off
torch.testing.assert_close(elementwise.rotate_tail(x, turns, 16), expected, **near)
torch.testing.assert_close(elementwise.rotate_tail(expected, turns, 16, back=True), x, **near)

from model.kernels.gradients import queries_backward
x, turns = torch.randn(130, 3, 192).bfloat16(), rope.rotations(torch.arange(130), torch.rand(32))
expected = rope.rotate_tail(x.float(), turns.conj().unsqueeze(1), 128).flatten(1)
rows, columns = queries_backward(x, turns, 128)
close(rows, expected)
close(columns, torch.nn.functional.pad(expected, (0, 0, 0, 126)).T)

from model.attention import keys_and_values
expanded, shared = torch.randn(5, 3, 20).requires_grad_(), torch.randn(5, 6).requires_grad_()
keys, values = keys_and_values(expanded, shared, 12)
assert torch.equal(elementwise.join_keys(expanded.detach(), shared.detach(), 12), keys)
dk, dv = torch.randn_like(keys), torch.randn_like(values)
torch.autograd.backward((keys, values), (dk, dv))
d_expanded, d_shared = elementwise.join_keys_backward(dk, dv, 12)
assert torch.equal(d_expanded, expanded.grad)
torch.testing.assert_close(d_shared, shared.grad)

from model.loss import token_logprobs
hidden, head, targets = torch.randn(6, 8).requires_grad_(), torch.randn(3000, 8), torch.randint(0, 3000, (6,))
logp, entropy = token_logprobs(hidden, head, targets, 0.7)
logits = (hidden @ head.T).detach()
ours, ours_entropy, lse = elementwise.logprobs(logits, targets, 0.7)
torch.testing.assert_close(ours, logp)
torch.testing.assert_close(ours_entropy, entropy, rtol=1e-5, atol=1e-5)
d_logp = torch.randn(6)
logp.backward(d_logp)
elementwise.logprobs_backward(logits, targets, lse, d_logp, 0.7)
torch.testing.assert_close(logits @ head, hidden.grad)

from model.kernels.adamw import adamw
from model.optimizer import AdamW
weights = [torch.nn.Parameter(torch.linspace(-1, 1, 5000)) for _ in range(2)]
moments = torch.zeros(2, 5000, dtype=torch.bfloat16)
optimizer = AdamW([weights[0]], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
optimizer.param_groups[0]["grad_scale"] = 0.3
for step in range(1, 4):
    weights[0].grad = torch.randn(5000)
    optimizer.step()
    adamw(weights[1].data, weights[0].grad, *moments, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, decay=0.1, step=step,
          scale=0.3)
    torch.testing.assert_close(weights[1], weights[0])
    state = optimizer.state[weights[0]]
    for moment, expected in zip(moments, (state["exp_avg"], state["exp_avg_sq"])):
        torch.testing.assert_close(moment, expected, rtol=2**-7, atol=1e-9)
        moment.copy_(expected)

# With FP8 blocks: the same update, and the blocks of its result.
from model.kernels.quantize import Weights
shape, given = (2, 200, 320), {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "decay": 0.1, "step": 3}
p, g, m = torch.randn(shape), torch.randn(shape), torch.randn(shape).bfloat16()
plain, fused = ([x.clone() for x in (p, g, m, m.abs())] for _ in range(2))
blocks = Weights(*quantize_blocks(p, transpose=True))
adamw(*plain, **given)
adamw(*fused, **given, blocks=blocks)
assert all(torch.equal(x, y) for x, y in zip(plain, fused, strict=True))
for found, expected in zip(blocks, quantize_blocks(fused[0], transpose=True), strict=True):
    assert torch.equal(found.scale, expected.scale) and torch.equal(found.data.float(), expected.data.float())

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

words = [torch.randint(-(2**31), 2**31 - 1, (n,), dtype=torch.int32) for n in (1, 1024, 1025, 5 * 1024 + 7)]
assert word_sums(words).tolist() == [[int(digest.word_sum(w)), w.nbytes] for w in words]

# What is moved, cast and quantised has the digests of what arrives. The interpreter cuts BF16 instead of rounding it.
halves = [torch.randn(n, 1030).bfloat16() for n in (1, 5)]
moved = [torch.randn(3, 700), *(half.float() for half in halves)]
targets = [torch.empty(3, 700), *map(torch.empty_like, halves)]
kept = torch.randn(9)
weights = [exact(2, 200, 320), exact(1, 128, 144)]
codes = [torch.empty_like(w, dtype=torch.float8_e4m3fn) for w in weights]
rooms = [fp8.Quantized(q, torch.empty(fp8.scale_shape(q))) for q in codes]
cast = torch.empty_like(halves[1])
passing = [*map(Passing, moved, targets), Passing(kept), Passing(moved[2], cast, sent=True)]
transfer = Transfer.of(passing, list(map(Quantizing, weights, rooms)))
arrived = [*targets, kept, moved[2], *(t for room in rooms for t in room)]
for given in (True, False, True, True):
    for target in targets:
        target.zero_()
    sums = transfer.run(sums=given)
    assert torch.equal(sums, digest.sums(arrived)) if given else sums.shape == (0, 2)
    assert all(torch.equal(t.float(), x) for t, x in zip(targets, moved, strict=True)) and torch.equal(cast, halves[1])
    cast.zero_()
    for w, room in zip(weights, rooms, strict=True):
        assert torch.equal(room.data.float(), w) and torch.equal(room.scale, fp8.quantize_blocks(w).scale)

# What an engine keeps of kv_b_proj and of a router, in FP32.
for heads, nope, v, latent in ((2, 16, 16, 16), (3, 128, 64, 512), (2, 48, 32, 256)):
    w = torch.randn(heads * (nope + v), latent)
    q = fp8.quantize_blocks(w)
    for given, plain in ((Weight(w), w), (Weight(*q), fp8.dequantize_blocks(q))):
        up_k, up_v = plain.unflatten(0, (heads, -1)).split([nope, v], 1)
        found = reshaped.halves(given, heads, nope, torch.float32)
        assert torch.equal(found[0], up_k.mT) and torch.equal(found[1], up_v)
w = torch.randn(6, 1280)
assert torch.equal(reshaped.router_terms(w, torch.float32, 4), w.view(-1, 4, 320).transpose(0, 1))

leaf = logits.clone().requires_grad_()
scores = leaf.sigmoid()
d_scores, d_gates = torch.randn(33, 24), torch.randn(33, 4)
for normalize in (True, False):
    gates = scores.gather(-1, top)
    gates = (gates / gates.sum(-1, keepdim=True) if normalize else gates) * 2.5
    for a, b in ((d_scores, d_gates), (None, d_gates), (d_scores, None)):
        loss = (0 if a is None else (scores * a).sum()) + (0 if b is None else (gates * b).sum())
        expected = torch.autograd.grad(loss, leaf, retain_graph=True)[0]
        found = route_backward(
            scores.detach(), top, a, b, normalize=normalize, factor=2.5, dtype=torch.float32
        )
        torch.testing.assert_close(found, expected)

# Choices of one expert stay in order, over several programs of the kernels.
indices = torch.rand(700, 160).argsort(-1)[:, :3]
counts = torch.bincount(indices.flatten(), minlength=160)
found = places(indices, counts)
ends = (-(-counts // 128) * 128).cumsum(0)
assert torch.equal(found.ends, ends.int())
expert, order = indices.flatten().sort(stable=True)
inside = torch.cat([torch.arange(n) for n in counts.tolist()])
row = ends[expert] - -(-counts // 128)[expert] * 128 + inside
assert torch.equal(found.place.flatten()[order], row.int()) and torch.equal(found.choice[row], order.int())
assert int((found.choice >= 0).sum()) == indices.numel()

from model.kernels import norms
from model.linear import RMSNorm, add_norm
norm = RMSNorm(96, 1e-6)
torch.nn.init.normal_(norm.weight)
x, more = torch.randn(2, 9, 96).unbind()
leaves = x.clone().requires_grad_(), more.clone().requires_grad_()
expected = add_norm(*leaves, norm)
total, normed = norms.add_norm(x, more, norm.weight.detach(), 1e-6)
torch.testing.assert_close((total, normed), tuple(e.detach() for e in expected))
torch.testing.assert_close(norms.add_norm(total, None, norm.weight.detach(), 1e-6)[1], normed)
same, inverse = norms.add_inverse(x, more, 1e-6)
assert torch.equal(same, total)
torch.testing.assert_close(total * inverse[:, None] * norm.weight.detach(), normed)
gradients = torch.randn(2, 9, 96).unbind()
torch.autograd.backward(expected, gradients)
dx, dw = norms.add_norm_backward(total, norm.weight.detach(), 1e-6, *gradients)
torch.testing.assert_close((dx, dx, dw), (leaves[0].grad, leaves[1].grad, norm.weight.grad))

joint, turns = torch.randn(7, 24 + 20 + 8).requires_grad_(), rope.rotations(torch.arange(7), torch.rand(4))
pair = RMSNorm(24, 1e-6), RMSNorm(20, 1e-6)
for norm in pair:
    torch.nn.init.normal_(norm.weight)
q, latent, key = joint.split([24, 20, 8], -1)
expected = pair[0](q), pair[1](latent), rope.rotate(key, turns)
weights = [norm.weight.detach() for norm in pair]
torch.testing.assert_close(norms.latents(joint.detach(), turns, *weights, 1e-6), tuple(e.detach() for e in expected))
gradients = [torch.randn_like(e) for e in expected]
torch.autograd.backward(expected, gradients)
found = norms.latents_backward(joint.detach(), turns, *weights, 1e-6, *gradients)
torch.testing.assert_close(found, (joint.grad, pair[0].weight.grad, pair[1].weight.grad))

# Latents normed as they are quantised
joint, weights = torch.randn(130, 256 + 128 + 8), [torch.rand(256), torch.rand(128)]
turns = rope.rotations(torch.arange(130), torch.rand(4))
*normed, key = norms.latents(joint, turns, *weights, 1e-6)
wide = torch.zeros(130, 3, 20)
inverses = norms.latent_inverses(joint, turns, 256, 128, 1e-6, wide[..., 8:16])
assert torch.equal(wide[..., 8:16], key.unsqueeze(1).expand(-1, 3, -1)) and not wide[..., :8].any()
for x, inverse, weight, y in zip((joint[:, :256], joint[:, 256:384]), inverses, weights, normed, strict=True):
    for found, expected in zip(quantize_normed(x, inverse, weight), quantize_both(y), strict=True):
        torch.testing.assert_close(found.scale, expected.scale)
        torch.testing.assert_close(found.data.float(), expected.data.float(), rtol=1 / 8, atol=2**-9)

from model.kernels.gradients import latents_backward
gradients = torch.randn(130, 256), torch.randn(130, 128), torch.randn(130, 8)
d_joint, *d_weights = norms.latents_backward(joint, turns, *weights, 1e-6, *gradients)
d_key = gradients[2].bfloat16()
d_joint[:, 384:] = rope.rotate(d_key.float(), turns.conj())
rows, columns, d_both = latents_backward(joint, turns, weights, inverses, *gradients[:2], d_key)
close(rows, d_joint)
close(columns, torch.nn.functional.pad(d_joint, (0, 0, 0, 126)).T)
torch.testing.assert_close(d_both, torch.cat(d_weights), rtol=1e-5, atol=1e-5)
"""


def test_the_kernels_are_their_references_under_the_interpreter() -> None:
    done = interpreter.run(PROGRAM)
    assert done.returncode == 0, done.stderr


def test_importing_the_model_does_not_import_triton() -> None:
    program = "import sys, model, model.kernels, jobs.bench; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
