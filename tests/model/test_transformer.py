from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model import rope
from model.config import ModelConfig
from model.loss import pretrain_loss, token_logprobs
from model.segments import Segments
from model.transformer import Transformer, build
from tests.fakes import TINY


def logits(model: Transformer, tokens: Tensor, lengths: list[int]) -> Tensor:
    return model.logits(model(tokens, Segments.of(lengths)).hidden)


def test_packed_sequences_do_not_see_each_other() -> None:
    model = build(TINY, seed=0)
    tokens = torch.randint(0, TINY.vocab_size, (30,))
    packed = logits(model, tokens, [12, 1, 17])
    alone = torch.cat([logits(model, part, [len(part)]) for part in tokens.split([12, 1, 17])])
    assert torch.allclose(packed, alone, atol=1e-5)


def test_tokens_see_only_the_past() -> None:
    model = build(TINY, seed=0)
    tokens = torch.randint(0, TINY.vocab_size, (20,))
    changed = tokens.clone()
    changed[13:] = 7
    assert torch.allclose(logits(model, tokens, [20])[:13], logits(model, changed, [20])[:13], atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first, second = build(TINY, seed=1), build(TINY, seed=1)
    assert torch.equal(torch.rand(1), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_recomputing_activations_changes_nothing() -> None:
    tokens = torch.randint(0, TINY.vocab_size, (24,))
    gradients = []
    for recompute in (False, True):
        model = build(TINY, seed=0).use("fp32", recompute=recompute)
        logits(model, tokens, [10, 14]).logsumexp(-1).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.15), ("fp8", 0.35)])
def test_lower_precision_is_near_fp32(precision: str, tolerance: float) -> None:
    tokens = torch.randint(0, TINY.vocab_size, (40,))
    model = build(TINY, seed=0)
    exact = logits(model, tokens, [40]).log_softmax(-1)
    low = logits(model.use(precision), tokens, [40]).log_softmax(-1)  # type: ignore[arg-type]
    assert 0 < (low - exact).abs().mean() < tolerance


def test_mtp_reads_as_the_report() -> None:
    """Equations 21 to 23 with the published order of concatenation: depth by depth, the whole sequence at once, the
    hidden state of each depth feeding the next."""
    model = build(replace(TINY, num_nextn_predict_layers=2), seed=0)
    torch.manual_seed(2)
    tokens = torch.randint(0, TINY.vocab_size, (20,))
    segments = Segments.of([20])
    out = model(tokens, segments)
    chain = model.mtp_hidden(out, tokens, segments)
    hidden = out.hidden
    for depth, module in enumerate(model.mtp, 1):
        count = 20 - depth
        embedded = model.embed_tokens(tokens[depth:])
        joined = torch.cat([module.enorm(embedded), module.hnorm(hidden[:count])], -1)
        part = Segments.of([count])
        x, _, _ = module.block(joined @ module.eh_proj.weight.T, rope.rotations(part.positions, model.freqs), part)
        hidden = module.norm(x)
        got, mask = chain[depth - 1]
        assert torch.allclose(got[:count], hidden, atol=1e-5)
        assert mask.tolist() == [i + depth + 1 < 20 for i in range(20)]


def test_mtp_masks_targets_at_packed_boundaries() -> None:
    model = build(replace(TINY, num_nextn_predict_layers=1), seed=0)
    tokens = torch.randint(0, TINY.vocab_size, (12,))
    segments = Segments.of([5, 7])
    _, mask = model.mtp_hidden(model(tokens, segments), tokens, segments)[0]
    assert mask.tolist() == [True] * 3 + [False] * 2 + [True] * 5 + [False] * 2


def test_the_mtp_loss_is_its_weighted_cross_entropy() -> None:
    model = build(replace(TINY, num_nextn_predict_layers=1), seed=0)
    tokens = torch.randint(0, TINY.vocab_size, (12,))
    segments = Segments.of([12])
    loss = pretrain_loss(model, model, tokens, segments, mtp_weight=0.3)
    out = model(tokens, segments)
    hidden, _ = model.mtp_hidden(out, tokens, segments)[0]
    first = F.cross_entropy(model.logits(out.hidden[:-1]), tokens[1:])
    second = F.cross_entropy(model.logits(hidden[:-2]), tokens[2:])
    assert torch.allclose(loss.total, first + 0.3 * second, atol=1e-5)


@pytest.mark.parametrize("over", ["sequence", "batch"])
def test_auxiliary_losses_reach_the_router(over: str) -> None:
    model = build(TINY, seed=0)
    tokens = torch.randint(0, TINY.vocab_size, (16,))
    plain = pretrain_loss(model, model, tokens, Segments.of([9, 7]))
    balanced = pretrain_loss(model, model, tokens, Segments.of([9, 7]), balance=0.5, balance_over=over)  # type: ignore[arg-type]
    assert float(balanced.total) > float(plain.total)
    (balanced.total - balanced.next_token).backward()
    assert model.routers()[0].weight.grad is not None


def test_sequence_and_batch_balance_differ() -> None:
    model = build(TINY, seed=0)
    tokens = torch.randint(0, TINY.vocab_size, (16,))
    values = [
        float(pretrain_loss(model, model, tokens, Segments.of([9, 7]), balance=0.5, balance_over=over).total)  # type: ignore[arg-type]
        for over in ("sequence", "batch")
    ]
    assert values[0] != values[1]


def test_log_probabilities_in_chunks_are_those_at_once() -> None:
    head = torch.randn(50, 8, requires_grad=True)
    hidden, targets = torch.randn(33, 8), torch.randint(0, 50, (33,))
    results = []
    for chunk in (100, 10):
        head.grad = None
        logp, entropy = token_logprobs(hidden, head, targets, 0.8, chunk)
        logp.sum().backward()
        assert head.grad is not None
        results.append((logp.detach(), entropy, head.grad.clone()))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_entropy_is_in_nats() -> None:
    _, entropy = token_logprobs(torch.zeros(2, 1), torch.zeros(4, 1), torch.zeros(2, dtype=torch.int64))
    assert torch.allclose(entropy, torch.tensor(4.0).log().expand(2))


def test_yarn_keeps_fast_pairs_and_slows_slow_ones() -> None:
    plain = ModelConfig(qk_rope_head_dim=64, rope_original_max_position_embeddings=4096)
    stretched = replace(plain, rope_factor=40.0)
    ratio = rope.frequencies(plain) / rope.frequencies(stretched)
    assert torch.allclose(ratio[:8], torch.ones(8))
    assert torch.allclose(ratio[-4:], torch.full((4,), 40.0), rtol=1e-4)
    assert rope.softmax_scale(stretched) / rope.softmax_scale(plain) == pytest.approx(1.3689**2, rel=1e-4)
