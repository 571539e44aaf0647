from __future__ import annotations

from dataclasses import replace

import torch

from model.moe import Experts, Router, Routing, balance_loss, bias_step, max_violation
from tests.fakes import TINY

CONFIG = replace(TINY, n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=3, routed_scaling_factor=2.5)


def routed(tokens: int = 64, seed: int = 0) -> tuple[Router, torch.Tensor, Routing]:
    torch.manual_seed(seed)
    router = Router(CONFIG)
    torch.nn.init.normal_(router.weight)
    router.e_score_correction_bias.normal_(std=0.3)
    x = torch.randn(tokens, CONFIG.hidden_size)
    return router, x, router(x)


def test_routing_reads_as_the_report() -> None:
    """Equations 12 to 16 and the group limit, one token at a time."""
    router, x, routing = routed()
    for t in range(len(x)):
        score = torch.sigmoid(router.weight @ x[t]).detach()
        choice = (score + router.e_score_correction_bias).detach()
        group_score = [sum(sorted(choice[2 * g : 2 * g + 2].tolist())[-2:]) for g in range(4)]
        kept = sorted(range(4), key=lambda g: -group_score[g])[:2]
        eligible = [e for g in kept for e in (2 * g, 2 * g + 1)]
        chosen = sorted(eligible, key=lambda e: -float(choice[e]))[:3]
        assert sorted(routing.indices[t].tolist()) == sorted(chosen)
        gates = {e: float(score[e] / score[chosen].sum() * 2.5) for e in chosen}
        for e, gate in zip(routing.indices[t].tolist(), routing.gates[t].tolist(), strict=True):
            assert abs(gates[e] - gate) < 1e-5


def test_the_bias_selects_and_does_not_weigh() -> None:
    router, x, before = routed()
    router.e_score_correction_bias += 5.0
    after = router(x)
    assert torch.equal(before.indices.sort(-1).values, after.indices.sort(-1).values)
    assert torch.allclose(before.gates.sort(-1).values, after.gates.sort(-1).values)


def test_the_bias_gets_no_gradient_and_the_router_does() -> None:
    router, x, _ = routed()
    router(x).gates[:, 0].sum().backward()
    assert router.weight.grad is not None
    assert router.weight.grad.abs().sum() > 0
    assert not router.e_score_correction_bias.requires_grad


def test_experts_are_the_gated_sum_of_swiglus() -> None:
    _, x, routing = routed()
    experts = Experts(CONFIG)
    got = experts(x, routing)
    width = CONFIG.moe_intermediate_size
    for t in range(0, len(x), 7):
        expected = torch.zeros(CONFIG.hidden_size)
        for e, gate in zip(routing.indices[t].tolist(), routing.gates[t], strict=True):
            hidden = experts.gate_up_proj.weight[e] @ x[t]
            hidden = torch.nn.functional.silu(hidden[:width]) * hidden[width:]
            expected = expected + gate * (experts.down_proj.weight[e] @ hidden)
        assert torch.allclose(got[t], expected, atol=1e-5)


def test_gradients_through_dispatch_are_those_of_plain_indexing() -> None:
    _, x, routing = routed(tokens=10)
    experts = Experts(CONFIG).double()
    x = x.double().requires_grad_()
    routing = routing._replace(gates=routing.gates.detach().double())
    assert torch.autograd.gradcheck(lambda x: experts(x, routing), x)


def test_the_balance_loss_reads_as_the_report() -> None:
    """Equations 17 to 20, a sequence at a time."""
    _, _, routing = routed(tokens=30)
    segments = torch.tensor([0] * 12 + [1] * 13 + [-1] * 5)
    scores = routing.scores.detach()
    expected = 0.0
    for s, tokens in ((0, range(12)), (1, range(12, 25))):
        for e in range(8):
            f = 8 / (3 * len(tokens)) * sum(e in routing.indices[t].tolist() for t in tokens)
            p = sum(float(scores[t, e] / scores[t].sum()) for t in tokens) / len(tokens)
            expected += f * p / 2
        assert s in (0, 1)
    assert abs(float(balance_loss(routing, segments, 3)) - expected) < 1e-5


def test_given_experts_are_used_with_the_router_s_own_gates() -> None:
    router, x, own = routed()
    given = torch.randint(0, CONFIG.n_routed_experts, own.indices.shape)
    given[::2] = -1
    replayed = router(x, given)
    assert torch.equal(replayed.own, own.indices)
    assert torch.equal(replayed.indices[::2], own.indices[::2])
    assert torch.equal(replayed.indices[1::2], given[1::2])
    expected = own.scores[1::2].gather(-1, given[1::2])
    assert torch.allclose(replayed.gates[1::2], 2.5 * expected / expected.sum(-1, keepdim=True))
    assert torch.equal(replayed.counts, torch.bincount(replayed.indices.flatten(), minlength=8))


def test_balanced_routing_has_the_smallest_balance_loss() -> None:
    scores = torch.full((8, 4), 0.5)
    spread, first = torch.arange(8).remainder(4).unsqueeze(-1), torch.zeros(8, 1, dtype=torch.int64)
    even = Routing(scores, spread, torch.ones(8, 1), torch.full((4,), 2), spread)
    skewed_scores = scores + torch.tensor([0.4, 0.0, 0.0, 0.0])
    skewed = Routing(skewed_scores, first, torch.ones(8, 1), torch.tensor([8, 0, 0, 0]), first)
    segments = torch.zeros(8, dtype=torch.int64)
    assert float(balance_loss(even, segments, 1)) < float(balance_loss(skewed, segments, 1))


def test_the_bias_moves_towards_starved_experts() -> None:
    biases = [torch.zeros(4), torch.ones(4)]
    bias_step(biases, torch.tensor([[10, 2, 4, 0], [0, 4, 0, 4]]), gamma=0.01)
    assert torch.allclose(biases[0], torch.tensor([-0.01, 0.01, 0.0, 0.01]))
    assert torch.allclose(biases[1], torch.tensor([1.01, 0.99, 1.01, 0.99]))


def test_max_violation_is_the_busiest_over_the_mean() -> None:
    assert max_violation(torch.tensor([[10, 2, 4, 0], [3, 3, 3, 3]])).tolist() == [1.5, 0.0]
