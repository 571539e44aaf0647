"""The loops of decoding beside the references in torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import compiled, fp8, rope, sampling
from model.config import ModelConfig, Precision
from model.decoding import Decoder, Layer, Reach
from model.linear import set_rounded
from model.loops import common, decoding
from model.loops import threads as threads_module
from model.transformer import Transformer, build
from tests.fakes import TINY
from tests.model.loops import torch_threads

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "latent queries": {"q_lora_rank": 24},
    "odd sizes": {"qk_nope_head_dim": 6, "qk_rope_head_dim": 6, "v_head_dim": 5, "kv_lora_rank": 14, "hidden_size": 37},
    "wide": {"hidden_size": 160, "kv_lora_rank": 144, "intermediate_size": 200},
    "groups": {"n_routed_experts": 12, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3},
    "deepseek-v2": {
        "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "scoring_func": "softmax", "norm_topk_prob": False,
    },
    "scaled gates, nothing shared": {"routed_scaling_factor": 2.5, "n_shared_experts": 0},
    "dense": {"first_k_dense_replace": 2},
}  # fmt: skip
ROWS, PLACES = 7, 21


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def model_of(shape: dict[str, Any], precision: Precision) -> Transformer:
    model = build(replace(TINY, **shape), 0).use(precision).requires_grad_(False)
    set_rounded(model, precision == "fp8")
    for router in model.routers():
        if router.c.scoring_func == "sigmoid":
            router.e_score_correction_bias.normal_(std=0.2)
    return model


def reach_of(c: ModelConfig, width: int, used: int) -> Reach:
    """Of ``width`` new tokens a row, at other places in each; the first keys of some rows are hidden."""
    last = torch.randint(width + 2, used, (ROWS, 1))
    places = (last - torch.arange(width).flip(0)).flatten()
    keys = torch.arange(PLACES)
    hidden = (keys > places.view(ROWS, width, 1)) | (keys < torch.randint(0, 2, (ROWS, 1, 1)))
    mask = torch.zeros(ROWS, width, PLACES).masked_fill_(hidden, float("-inf"))
    return Reach(rope.rotations(places, rope.frequencies(c)), places, mask, used)


@pytest.mark.parametrize("precision", ["fp32", "fp8"])
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_compiled_layer_is_the_layer(shape: str, width: int, precision: Precision) -> None:
    model = model_of(SHAPES[shape], precision)
    c, reach = model.c, reach_of(model.c, width, 18)
    for block in model.blocks():
        x = torch.randn(ROWS * width, c.hidden_size)
        cache = torch.randn(ROWS, PLACES, c.kv_lora_rank + c.qk_rope_head_dim)
        ours, theirs = cache.clone(), cache.clone()
        out, routing = compiled.CompiledLayer(block, torch.float32)(x, ours, reach)
        expected, choice = Layer(block, torch.float32)(x, theirs, reach)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        # A number that lies between two of FP8's may be rounded to either, by the last digit of a sum.
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-5 if precision == "fp32" else 2e-2)
        assert (routing is None) == (choice is None)
        if routing is not None and choice is not None and precision == "fp32":
            for name in ("scores", "gates"):
                torch.testing.assert_close(getattr(routing, name), getattr(choice, name), rtol=1e-5, atol=1e-6)
            assert torch.equal(routing.indices, choice.indices)
            assert torch.equal(routing.counts, choice.counts)


def test_a_decoder_is_compiled_for_fp32_on_a_cpu_alone() -> None:
    kinds = [type(Decoder(model_of({}, precision)).layers[0]) for precision in ("fp32", "fp8", "bf16")]  # type: ignore[arg-type]
    assert kinds == [compiled.CompiledLayer, compiled.CompiledLayer, Layer]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "WORTH", 1)
    model = model_of({}, "fp32")
    layer, reach = compiled.CompiledLayer(model.blocks()[1], torch.float32), reach_of(model.c, 1, 18)
    x, cache = torch.randn(ROWS, model.c.hidden_size), torch.randn(ROWS, PLACES, 24)
    logits, keys = torch.randn(ROWS, 320), torch.arange(ROWS, dtype=torch.int32)

    def computed() -> list[torch.Tensor]:
        return [layer(x, cache.clone(), reach)[0], *compiled.raced(logits, keys, 1.0)]

    alone = computed()
    with torch_threads(threads):
        shared = computed()
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("width", [5, 320, 4099])
def test_a_race_has_the_reference_s_winner(width: int, temperature: float) -> None:
    rows = 200
    logits, keys = 3 * torch.randn(rows, width), torch.randint(-(2**31), 2**31, (rows,)).to(torch.int32)
    logits[:, 2] = float("-inf")
    tokens, logprobs = compiled.raced(logits, keys, temperature)
    probs, total = sampling.distribution(logits / temperature)
    speeds = probs / sampling.exponentials(keys, width)
    best = speeds.amax(-1)
    assert bool((speeds.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) >= best * (1 - 1e-5)).all())
    expected = (logits / temperature).gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - total
    torch.testing.assert_close(logprobs, expected, rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize("hostile", [float("nan"), float("inf"), float("-inf")])
def test_whatever_the_logits_a_token_is_one_of_the_vocabulary(hostile: float) -> None:
    for logits in (torch.full((3, 50), hostile), torch.randn(3, 50).index_fill_(1, torch.tensor([4, 9]), hostile)):
        tokens, _ = compiled.raced(logits, torch.arange(3, dtype=torch.int32), 1.0)
        assert tokens.min() >= 0
        assert tokens.max() < 50


def test_numbers_that_are_none_do_not_leave_the_experts() -> None:
    model = model_of({"n_routed_experts": 8, "n_group": 4, "topk_group": 2}, "fp32")
    layer, reach = compiled.CompiledLayer(model.blocks()[1], torch.float32), reach_of(model.c, 1, 18)
    _, routing = layer(torch.full((ROWS, model.c.hidden_size), float("nan")), torch.zeros(ROWS, PLACES, 24), reach)
    assert routing is not None
    assert 0 <= int(routing.indices.min()) <= int(routing.indices.max()) < 8
    assert int(routing.counts.sum()) == ROWS * model.c.num_experts_per_tok


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.floats(-30, 30), st.integers(0, 2**32 - 1))
def test_a_row_is_rounded_to_fp8_to_the_bit(width: int, scale: float, seed: int) -> None:
    x = torch.randn(width, generator=torch.Generator().manual_seed(seed)) * 2.0**scale
    x[::7] = 0
    row = x.clone()
    common.round_row(row.numpy())
    assert torch.equal(row, fp8.round_tiles(x.unsqueeze(0))[0])


def test_exponentials_and_logarithms_are_right_to_the_last_digits() -> None:
    x = np.concatenate([np.linspace(-87, 88, 20_001), -np.logspace(-9, 0, 1000)]).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs([common.exp(v) for v in x] - exact) / exact) < 2 * 2**-23
    y = np.concatenate([np.logspace(-10, -0.01, 20_000), 1 - np.logspace(-7, -1, 1000)]).astype(np.float32)
    exact = -np.log1p(-y.astype(np.float64))
    assert np.max(np.abs([decoding.minus_log_1_minus(v) for v in y] - exact) / exact) < 4 * 2**-23
    assert [common.exp(np.float32(v)) for v in (-np.inf, -100)] == [0, 0]
