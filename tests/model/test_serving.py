"""The GPU engine and the exact trainer on a CPU, by Triton's interpreter and in FP32, beside the modules."""

from __future__ import annotations

import pytest

from tests.model.kernels import interpreter

SETUP = """
import torch
from dataclasses import replace
from model import probe, publish, serving, walk
from model.config import ModelConfig
from model.drafting import DraftedWaves
from model.engine import Request, Sampling
from model.exact import Exact
from model.graphs import Graphs
from model.parts import Part
from model.probe import Probed
from model.sampling import Start, Stops
from model.segments import Segments
from model.transformer import build
from model.waves import Waves
from tests.fakes import tiny_tokenizer
from tests.model.test_publish import of_the_model

torch.manual_seed(0)
probe.LONGEST = 4  # an interpreted token takes its time
tokenizer = tiny_tokenizer()
C = ModelConfig(
    vocab_size=320, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=2, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=16,
    n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=2, n_group=4, topk_group=2, num_nextn_predict_layers=1,
    max_position_embeddings=96, initializer_range=0.1, routed_scaling_factor=2.5, eos_token_id=tokenizer.eos,
)
"""
GRAPHS = """
model = build(C, 1).use("fp32").requires_grad_(False)
served = serving.Served(C, "fp32", torch.device("cpu"))
served.load(publish.made(model, "fp32"))
page = 64 * served.width * 4 * 3
requests = [Request((5,) * 67, (1, 2)), Request((7,) * 3, (3,), ()), Request((9,), (4,))]
sampling = Sampling(temperature=0.8, max_tokens=3)
starts = [Start.of(r, *row, sampling, 96) for r in requests for row in r.rows()]
stops = None
graphs = Graphs(served, max_rows=3, cache_bytes=4 * page, draft=DRAFT, record_routes=True)
for ours, theirs in zip(graphs.sample(starts, sampling, stops), Waves(model, 8, True).sample(starts, sampling, stops)):
    assert ours.tokens == theirs.tokens and ours.stopped == theirs.stopped
    assert max(abs(a - b) for a, b in zip(ours.logprobs, theirs.logprobs)) < 1e-5
    assert (ours.routes == theirs.routes).all()
# The first two rows need three of the three pages, for they share the prompt's first one; so the others wait.
assert graphs.tally.steps > 3
assert graphs.tally.row_steps == graphs.tally.tokens or DRAFT
"""
DRAFTS = """
model = build(C, 1).use("fp32").requires_grad_(False)
# The stream stands still and the module's input is the embedding, so that both guess from the last token alone.
for name, weight in model.named_parameters():
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        weight.zero_()
    if name.endswith("eh_proj.weight"):
        weight.copy_(torch.eye(*weight.shape))
served = serving.Served(C, "fp32", torch.device("cpu"))
served.load(publish.made(model, "fp32"))
starts = [Start(ids, seed, None, 6) for seed, ids in enumerate([(5, 7), (7,) * 3, (9,)])]
graphs, waves = Graphs(served, max_rows=3, cache_bytes=1 << 20, draft=True), DraftedWaves(model, 3, False)
ours, theirs = graphs.sample(starts, Sampling()), waves.sample(starts, Sampling())
assert [row.tokens for row in ours] == [row.tokens for row in theirs]
assert graphs.tally.row_steps == waves.tally.row_steps < 0.7 * graphs.tally.tokens
"""
FRONT = """
import asyncio
from model.native import NativeEngine

class OnKernels(NativeEngine):
    def _has_kernels(self, precision):
        return True

walk.TOGETHER = 2  # parts, and one is left
published = publish.publish(build(C, 1), 4, "fp32")
probe = walk.Probe(C, "fp32", torch.device("cpu"), published.probe).begun()
for part in of_the_model(published.parts):
    probe.through(part)
found = Probed(probe.rows(), probe.logprobs())
done = []
for kind in (NativeEngine, OnKernels):
    engine = kind(C, tokenizer)
    asyncio.run(engine.publish(published))
    done.append(engine.sample([Request((5, 6), (1,))], Sampling(max_tokens=2)))
assert engine.graphs is not None and done[0][0][0].token_ids == done[1][0][0].token_ids
assert done[1][0][0].versions == (4, 4)

def walked():
    engine.walk.against(found.stream)
    engine.walk.to_the_end()
    logprobs, distances = engine.walk.found()
    return logprobs, distances.tolist()

logprobs, distances = walked()
assert torch.equal(logprobs, found.logprobs) and not any(distances)
served = engine.graphs.served
for at, weight in enumerate((served.embedding, served.layers[0].o.data, served.layers[1].feed.down.data)):
    before = weight.clone()
    weight.copy_(weight.roll(1, 0))
    logprobs, distances = walked()
    assert torch.equal(logprobs, found.logprobs) and [i for i, d in enumerate(distances) if d] == [at]
    try:
        publish.check_walk(distances, [0.0], 4, publish.ROUNDING)
    except publish.PublishError as error:
        assert ("output of embed_tokens", "output of layers.0", "output of layers.1")[at] in str(error)
    else:
        raise AssertionError("a layer that computes something else was taken")
    weight.copy_(before)
served.head.data.copy_(served.head.data.roll(1, 0))
logprobs, distances = walked()
assert (logprobs != found.logprobs).all() and not any(distances)
other = publish.publish(build(C, 2), 5, "fp32")
asyncio.run(engine.publish(other))
(head,) = (part for part in other.parts if part.name == "head")
assert torch.equal(engine.graphs.served.head.data, head.tensors["lm_head.weight"])
unchecked = publish.publish(build(C, 1), 4, "fp32", settings=publish.PublishSettings(checks=()))
for whole, receiver in ((unchecked, OnKernels(C, tokenizer)), (published, OnKernels(C, tokenizer)), (other, engine)):
    broken = replace(whole, parts=[part for part in whole.parts if part.name not in ("head", "mtp")])
    try:
        asyncio.run(receiver.publish(broken))
    except publish.PublishError as error:
        assert "norm.weight' is missing" in str(error), error
    else:
        raise AssertionError("weights without a head were taken")
*parts, proof = published.parts
wrong = Part.of("proof", {**proof.tensors, "logprobs": proof.tensors["logprobs"] - 1.5})
crossed = replace(published, parts=[*parts, wrong])
try:
    asyncio.run(OnKernels(C, tokenizer).publish(crossed))
except publish.PublishError as error:
    assert "differ from the trainer's" in str(error)
else:
    raise AssertionError("other log-probabilities were taken")
"""
ALONE = """
# A token that walks alone attends to more than itself: what its query is made of moves what comes out.
parts = publish.publish(build(C, 1), 4, "fp32", settings=publish.PublishSettings(checks=())).parts
found = []
for sign in (1, -1):
    parts[1].tensors["layers.0.self_attn.q_b_proj.weight"].mul_(sign)
    probe = walk.Probe(C, "fp32", torch.device("cpu"), (5, 7)).begun()
    for part in parts:
        probe.through(part)
    found.append(Probed(probe.rows(), probe.logprobs()))
assert found[0].logprobs.shape == (1,) and (found[0].stream[0] == found[1].stream[0]).all()
assert (found[0].stream[1:] != found[1].stream[1:]).any(-1).all()
"""
EXACT = """
model = build(C, 2).use("fp32")
exact = Exact(model, "fp32")
segments = Segments.sharing([5, 0], [[20, 3], [40]])
tokens, at, targets = torch.randint(0, 320, (68,)), torch.tensor([4, 6, 20, 60]), torch.tensor([1, 2, 3, 4])

def gradients(out, logp):
    model.zero_grad()
    (logp.sum() + sum((r.scores ** 2).sum() for r in out.routing)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

out = model(tokens, segments)
expected = (model.logits(out.hidden[at]) / 0.7).log_softmax(-1)
theirs = gradients(out, expected.gather(-1, targets[:, None])[:, 0])
ours = exact.forward(tokens, segments)
logp, entropy = exact.token_logprobs(ours.hidden[at], targets, 0.7)
torch.testing.assert_close(logp, expected.gather(-1, targets[:, None])[:, 0], atol=1e-5, rtol=1e-5)
torch.testing.assert_close(entropy, -(expected.exp() * expected).sum(-1), atol=1e-5, rtol=1e-5)
assert [r.counts.tolist() for r in ours.routing] == [r.counts.tolist() for r in out.routing]
mine = gradients(ours, logp)
assert mine.keys() == theirs.keys()
for name, gradient in theirs.items():
    torch.testing.assert_close(mine[name], gradient, atol=1e-4, rtol=1e-4, msg=name)
with torch.no_grad():
    model.lm_head.weight.mul_(2)
exact.refresh()
assert torch.equal(exact.served.head.data, model.lm_head.weight)
"""


PUBLISHES = """
import asyncio
from model import replayed
from model.native import NativeEngine
from tests.model.test_replayed import Tape

# A trainer and engines as on a GPU, whose recordings do again what was recorded with.
C = replace(C, n_shared_experts=SHARED)
NATIVE = publish.PublishSettings(to_kernels=True)
publish.has_kernels = lambda *_: True
publish.has_e4m3 = lambda device: True
publish.kind_on = lambda device: "sum"
class Graph(Tape):
    def record(self, again):  # holds the memory of parts, and not the parts
        function, (met, args) = again.func, again.args
        return super().record(lambda again=own(args): function(met, again))

def own(a):
    if isinstance(a, (list, tuple)):
        return [*map(own, a)]
    return Part(a.outline, a.piece) if isinstance(a, Part) else a

replayed.Recorder.on = staticmethod(lambda device, **_: Graph())

def weights_of(engine):
    own = engine.graphs.served
    return [t.clone() for t in serving._flat(((own.embedding, own.norm, own.head), own.drafter, own.layers))]

def pieces(parts):
    return [t.clone() for part in of_the_model(parts) for t in part.tensors.values()]

def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

def send(engine, version, place=list):
    weights = publish.publish(model, version, "fp32", place, NATIVE)
    asyncio.run(engine.publish(weights))
    return weights

@torch.no_grad()
def train():
    for p in model.parameters():
        p += 0.01 * torch.randn(p.shape)

model, engine, places = build(C, 1), NativeEngine(C, tokenizer), set()
for version in range(5):  # digests take turns: run, run, recorded and replayed, once more, replayed
    train()
    parts = send(engine, version).parts
    assert same(pieces(parts), pieces(publish.made(model, "fp32")))
    places.add(tuple(part.piece.data_ptr() for part in parts if part.name != "proof"))
    del parts
    new = NativeEngine(C, tokenizer)
    weights = publish.Fresh(model, "fp32")
    served = serving.Served(C, "fp32", torch.device("cpu"))
    served.load(part for part, _ in weights.made(None))
    new.share(served, version)
    assert same(weights_of(engine), weights_of(new))
assert len(places) == 1
"""
UNUSUAL_PUBLISHES = """
held = publish.publish(model, 4, "fp32", settings=NATIVE)
before = pieces(held.parts)
train()
send(engine, 5)
assert same(pieces(held.parts), before)
asyncio.run(engine.publish(held))
del held

def addresses():
    return [part.piece.data_ptr() for part in publish.publish(model, 6, "fp32", settings=NATIVE).parts]

# One that breaks off in the midst leaves its memory to the next.
before = addresses()
for count in range(1, 6):
    try:
        publish.publish(model, 6, "fp32", lambda parts: [1 / (count - i) for i, _ in enumerate(parts)], NATIVE)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError(count)
    assert addresses() == before

def damaging(name, parts):
    for part in parts:
        if name in part.tensors:
            part.tensors[name].view(-1).view(torch.uint8)[5] ^= 1
        yield part

# Copied, or made into something else; in parts that are all there, or made as they are taken.
for name, place in (("mlp.experts.gate_up_proj.weight", list), ("self_attn.kv_b_proj.weight", iter)):
    name = f"layers.1.{name}"
    try:
        send(engine, 7, lambda parts: place(damaging(name, parts)))
    except publish.PublishError as error:
        assert f"{name} differs" in str(error), error
    else:
        raise AssertionError(name)

waiting = publish.publish(model, 8, "fp32", iter, NATIVE)
held = send(engine, 9).parts
before = pieces(held)
asyncio.run(engine.publish(waiting))
assert same(pieces(held), before) and engine.version == 8
del held, waiting

model.norm.weight.data = torch.full_like(model.norm.weight, 2.0)
model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 3)
send(engine, 9)
assert torch.equal(engine.graphs.served.norm, model.norm.weight.data)
assert torch.equal(engine.graphs.served.head.data, model.lm_head.weight.data)

exact = Exact(model.use("fp32"), "fp32")
for _ in range(3):
    train()
    exact.refresh()
assert len({part.piece.data_ptr() for part in exact.outgoing.parts}) == 2
send(engine, 10)
own = engine.graphs.served
flat = [*serving._flat((exact.served.embedding, exact.served.norm, exact.served.layers))]
assert same(flat, [*serving._flat((own.embedding, own.norm, own.layers))])
"""
LAYER = """
from tests.fakes import TINY

# What is multiplied as one is not copied, but for experts that are not published one by one.
for shared, precision in ((1, "bf16"), (2, "bf16"), (1, "fp8"), (2, "fp8")):
    shape = replace(
        TINY, hidden_size=128, moe_intermediate_size=128, intermediate_size=256, q_lora_rank=128, kv_lora_rank=16,
        qk_nope_head_dim=16, v_head_dim=16, n_shared_experts=shared,
    )
    part = list(publish.made(build(shape, seed=0), precision))[2]
    layer = serving.Served(shape, precision, torch.device("cpu")).layer(part.tensors, "layers.1.")
    mlp = {name.removeprefix("layers.1.mlp."): tensor for name, tensor in part.tensors.items()}
    joined = {"experts.gate_up_proj.weight": layer.feed.gate_up.data, "experts.down_proj.weight": layer.feed.down.data}
    for name, data in joined.items():
        assert (data.data_ptr() == mlp[name].data_ptr()) == (shared == 1)
        assert torch.equal(data[: len(mlp[name])].float(), mlp[name].float())
    gate, up, down = (mlp[f"shared_experts.{name}_proj.weight"].float() for name in ("gate", "up", "down"))
    for i in range(shared):
        at = slice(128 * i, 128 * (i + 1))
        assert torch.equal(layer.feed.gate_up.data[shape.n_routed_experts + i].float(), torch.cat([gate[at], up[at]]))
        assert torch.equal(layer.feed.down.data[shape.n_routed_experts + i].float(), down[:, at])
    assert layer.a.data.data_ptr() == part.tensors["layers.1.self_attn.q_a_proj.weight"].data_ptr()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        GRAPHS.replace("DRAFT", "False"),
        GRAPHS.replace("DRAFT", "True"),
        DRAFTS,
        FRONT,
        ALONE,
        EXACT,
        LAYER,
        PUBLISHES.replace("SHARED", "1") + UNUSUAL_PUBLISHES,
        PUBLISHES.replace("SHARED", "2"),
    ],
    ids=[
        "graphs",
        "graphs with drafts",
        "guesses",
        "front",
        "alone",
        "exact",
        "a layer",
        "publishes",
        "two shared experts",
    ],
)
def test_interpreted(program: str) -> None:
    done = interpreter.run(SETUP + program)
    assert done.returncode == 0, done.stderr[-3000:]
