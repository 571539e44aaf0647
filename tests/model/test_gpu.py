"""The same modules on a CUDA device."""

from __future__ import annotations

import asyncio
import copy
from typing import Literal

import pytest
import torch

from model import publish
from model.config import Precision
from model.engine import Request, Sampling
from model.loss import pretrain_loss, token_logprobs
from model.native import NativeEngine
from model.policy import OptimizerSettings, Policy
from model.sampling import Start
from model.segments import Segments
from tests.fakes import SERVED, tiny_policy, tiny_tokenizer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.15), ("fp8", 0.15)])
def test_an_engine_on_a_gpu_samples_what_its_full_forward_says(precision: Precision, tolerance: float) -> None:
    tokenizer = tiny_tokenizer()
    policy = tiny_policy(hidden_size=128, moe_intermediate_size=128, kv_lora_rank=128)
    engine = NativeEngine(policy.model.c, tokenizer, device="cuda")
    publish.accept(engine.model, policy.publish(precision))
    prompt = (5, 6, 7, 8)
    ((completion,),) = engine.sample([Request(prompt, (1,))], Sampling(max_tokens=40))
    tokens = torch.tensor((*prompt, *completion.token_ids), device="cuda")
    with torch.no_grad():
        hidden = engine.model(tokens[:-1], Segments.of([len(tokens) - 1], "cuda")).hidden
        logp = engine.model.logits(hidden).log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)[len(prompt) - 1 :]
    # In BF16 the absorbed form rounds elsewhere than the expanded one, and a router may flip: a mean is held.
    assert (logp.cpu() - torch.tensor(completion.logprobs)).abs().mean() < tolerance


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_a_policy_on_a_gpu_learns(precision: Precision) -> None:
    policy = tiny_policy(hidden_size=128, moe_intermediate_size=128, kv_lora_rank=128)
    policy.model.use(precision)
    tokens = torch.arange(5, 69)
    losses = []
    for _ in range(6):
        out = policy.forward(tokens, Segments.of([64]), torch.arange(63), tokens[1:], 1.0)
        loss = -out.logp.mean()
        policy.backward(loss, out.routing)
        policy.apply()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.995), ("fp8", 0.97)])
@pytest.mark.parametrize(
    "segments",
    [Segments.of([64, 64]), Segments.of([90, 128]), Segments.sharing([40], [[30, 60]])],
    ids=["even", "uneven", "shared"],
)
@pytest.mark.parametrize(("q_lora_rank", "shared"), [(128, 1), (None, 0)])
def test_a_training_step_is_the_reference_s(
    precision: Precision, least: float, segments: Segments, q_lora_rank: int | None, shared: int
) -> None:
    """Gradients of the fused operators on a GPU beside those of the references on a CPU, for the same experts."""
    changes = {"q_lora_rank": q_lora_rank, "n_shared_experts": shared, "initializer_range": 0.05}
    policy = tiny_policy(**{**SERVED, **changes})
    tokens = torch.randint(0, policy.model.c.vocab_size, (len(segments.ids),))
    reference = copy.deepcopy(policy.model).cpu().use("fp32" if precision == "bf16" else "fp8")
    expected = reference(tokens, segments)
    routes = torch.stack([routing.indices for routing in expected.routing], 1)
    weight = torch.randn(len(tokens), policy.model.c.hidden_size)
    (expected.hidden * weight).sum().backward()
    out = policy.model.use(precision)(tokens.cuda(), segments.to("cuda"), routes.cuda())
    (out.hidden.float() * weight.cuda()).sum().backward()
    for (name, p), q in zip(policy.model.named_parameters(), reference.parameters(), strict=True):
        if q.grad is not None:
            assert p.grad is not None, name
            close = torch.nn.functional.cosine_similarity(p.grad.cpu().flatten(), q.grad.flatten(), dim=0)
            assert close > least, (name, float(close))


@pytest.mark.parametrize("chunk", [64, 256])
def test_gradients_of_log_probabilities_do_not_depend_on_what_is_kept(chunk: int) -> None:
    """The last chunk's logits are kept for the first of two backward passes."""
    hidden = torch.randn(150, 256, device="cuda").bfloat16().requires_grad_()
    head = (torch.randn(1000, 256, device="cuda") / 16).requires_grad_()
    targets, d = torch.randint(0, 1000, (150,), device="cuda"), torch.randn(150, device="cuda")
    logp, _ = token_logprobs(hidden, head, targets, 0.7, chunk)
    once, again = (torch.autograd.grad(logp, (hidden, head), d, retain_graph=True) for _ in range(2))
    leaves = hidden.detach().double().requires_grad_(), head.detach().bfloat16().double().requires_grad_()
    scores = (leaves[0] @ leaves[1].T / 0.7).log_softmax(-1).gather(-1, targets[:, None])
    for x, y, z in zip(once, again, torch.autograd.grad(scores, leaves, d[:, None].double()), strict=True):
        assert torch.equal(x, y)
        assert float((x.double() - z).norm() / z.norm()) < 0.01


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize("moments", ["fp32", "bf16"])
def test_a_trained_model_computes_what_its_weights_say(precision: Precision, moments: Literal["fp32", "bf16"]) -> None:
    """And not what they said before their last update, whose FP8 blocks are kept."""
    policy = tiny_policy(settings=OptimizerSettings(lr=1e-2, moments=moments), **SERVED)
    policy.model.use(precision)
    tokens, segments = torch.arange(5, 69, device="cuda"), Segments.of([64], "cuda")
    for _ in range(3):
        out = policy.forward(tokens, segments, torch.arange(63), tokens[1:], 1.0)
        policy.backward(-out.logp.mean(), out.routing)
        policy.apply()
    again = copy.deepcopy(policy.model)
    with torch.no_grad():
        assert torch.equal(policy.model(tokens, segments).hidden, again(tokens, segments).hidden)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize("draft", [False, True])
def test_engine_and_exact_trainer_give_the_same_bits(precision: Precision, draft: bool) -> None:
    tokenizer = tiny_tokenizer()
    policy = tiny_policy(
        hidden_size=256, intermediate_size=256, moe_intermediate_size=128, kv_lora_rank=128, qk_nope_head_dim=32,
        qk_rope_head_dim=32, v_head_dim=64, num_nextn_predict_layers=1, max_position_embeddings=512,
    )  # fmt: skip
    exact = Policy(policy.model, tokenizer, policy.settings, precision, exact=precision)
    engine = NativeEngine(policy.model.c, tokenizer, device="cuda", draft=draft, max_rows=24)
    asyncio.run(engine.publish(exact.publish(precision)))
    requests = [Request(tuple(range(5, 5 + n)), tuple(range(10 * n, 10 * n + 10))) for n in (1, 7, 70, 130)]
    done = engine.sample(requests, Sampling(max_tokens=60))
    for request, group in zip(requests, done, strict=True):
        for completion in group:
            ids = torch.tensor((*request.prompt_ids, *completion.token_ids))
            at = torch.arange(len(request.prompt_ids) - 1, len(ids) - 1)
            with torch.no_grad():
                out = exact.forward(ids[:-1], Segments.of([len(ids) - 1]), at, ids[at + 1], 1.0)
            assert out.logp.tolist() == list(completion.logprobs)


def test_an_exact_trainer_learns_and_shares_its_weights() -> None:
    sizes = {"qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}
    policy = tiny_policy(hidden_size=128, moe_intermediate_size=128, kv_lora_rank=128, **sizes)
    exact = Policy(policy.model, policy.tokenizer, policy.settings, "bf16", exact="bf16")
    assert exact.exact is not None
    engine = NativeEngine(policy.model.c, policy.tokenizer, device="cuda")
    tokens, losses = torch.arange(5, 69), []
    for version in range(6):
        engine.share(exact.exact.served, version)
        ((completion,),) = engine.sample([Request((5, 6), (1,))], Sampling(temperature=0.0, max_tokens=4))
        out = exact.forward(tokens, Segments.of([64]), torch.arange(63), tokens[1:], 1.0)
        loss = -out.logp.mean()
        exact.backward(loss, out.routing)
        exact.apply()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1
    assert completion.versions == (5,) * len(completion.token_ids)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_drafts_of_a_trained_module_are_right(precision: Precision) -> None:
    """On text that repeats itself: trained on the device, then sampled by the engine."""
    from model.graphs import Graphs

    policy = tiny_policy(
        lr=3e-3, hidden_size=256, intermediate_size=256, moe_intermediate_size=128, kv_lora_rank=128,
        qk_nope_head_dim=32, qk_rope_head_dim=32, v_head_dim=64, num_nextn_predict_layers=1,
        max_position_embeddings=512,
    )  # fmt: skip
    exact = Policy(policy.model, policy.tokenizer, policy.settings, precision, exact=precision)
    text = torch.arange(5, 9, device="cuda").repeat(16)
    for _ in range(40):
        loss = pretrain_loss(exact.wrapped, exact.model, text, Segments.of([64], "cuda"), mtp_weight=0.3)
        exact.backward(loss.total, loss.routing)
        exact.apply()
    assert loss.further is not None
    assert max(float(loss.next_token.detach()), float(loss.further.detach())) < 0.1
    assert exact.exact is not None
    graphs = Graphs(exact.exact.served, 8, 1 << 28, draft=True)
    starts = [Start((5, 6, 7, 8, 5, 6), seed, None, 100) for seed in range(8)]
    graphs.sample(starts, Sampling())
    assert graphs.tally.tokens > 1.8 * graphs.tally.row_steps
