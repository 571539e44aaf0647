"""The same modules on a CUDA device."""

from __future__ import annotations

import pytest
import torch

from model import publish
from model.config import Precision
from model.engine import Request, Sampling
from model.native import NativeEngine
from model.segments import Segments
from tests.fakes import tiny_policy, tiny_tokenizer

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
