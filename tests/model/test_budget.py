"""The arithmetic of `model/budget.py` against what the modules allocate, keep and multiply."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model import budget, config, fp8, publish
from model.config import ModelConfig, Precision
from model.segments import Segments
from model.transformer import build
from tests.fakes import TINY
from tests.model.published import DEEPSEEK_V3

SHAPE = replace(
    TINY, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, q_lora_rank=24, num_hidden_layers=4,
    n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, first_k_dense_replace=2,
)  # fmt: skip
CASES: dict[str, ModelConfig] = {
    "dense and sparse layers": SHAPE,
    "no low-rank queries": replace(SHAPE, q_lora_rank=None, n_shared_experts=1),
    "all sparse, wide experts": replace(SHAPE, first_k_dense_replace=0, moe_intermediate_size=80),
}
ROWS, LENGTH = 4, 24
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def tokens(c: ModelConfig) -> tuple[torch.Tensor, Segments]:
    return torch.randint(0, c.vocab_size, (ROWS * LENGTH,)), Segments.of([LENGTH] * ROWS)


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_those_of_the_model(name: str) -> None:
    c = replace(CASES[name], num_nextn_predict_layers=1)
    assert sum(each.parameters for each in budget.components(c)) == sum(
        t.numel() for t in build(c, 0).state_dict().values()
    )


def test_a_measured_step_is_planned_within_a_tenth() -> None:
    """BF16 with one micro-batch: gradients come as activations go, so the peak is without them."""
    run = json.loads((RESULTS / "training-h200.json").read_text())
    names = {f.name for f in fields(ModelConfig)}
    c = ModelConfig(**{name: value for name, value in run["shape"].items() if name in names})
    tokens, length = run["shape"]["sequences"] * run["shape"]["tokens"], run["shape"]["tokens"]
    parameters = sum(each.parameters for each in budget.components(c))
    kept = sum(budget.activation_bytes(c, tokens, 2).values())
    measured = run["steps"]["zeroth, bf16"]
    assert 8 * parameters + 2 * parameters + kept == pytest.approx(measured["peak_gib"] * 2**30, rel=0.1)
    flops = 3 * sum(budget.forward_flops(c, tokens, length / 2).values())
    assert flops == pytest.approx(run["shape"]["teraflops"] * 1e12, rel=0.01)


def test_deepseek_v3_is_671_billion_of_which_37_are_active() -> None:
    parts = {each.name: each for each in budget.components(config.from_hf(DEEPSEEK_V3, "test"))}
    extra = parts["multi-token prediction"].parameters
    assert 670e9 < sum(each.parameters for each in parts.values()) - extra < 672e9
    assert 36.5e9 < sum(each.multiplied for each in parts.values()) + parts["embedding"].parameters < 37.7e9


@pytest.mark.parametrize("name", CASES)
def test_flops_are_those_that_torch_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8, "SMALL_ROWS", 0)  # torch does not count grouped products
    c = CASES[name]
    model = build(c, 0)
    ids, segments = tokens(c)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.logits(model(ids, segments).hidden)
        # Torch does not count what loops multiply. Of the whole square causal attention needs the lower half.
        heads = ROWS * c.num_attention_heads
        for _ in model.blocks():
            scores = torch.zeros(heads, LENGTH, c.qk_head_dim) @ torch.zeros(heads, c.qk_head_dim, LENGTH)
            scores @ torch.zeros(heads, LENGTH, c.v_head_dim)
    assert counter.get_total_flops() == sum(budget.forward_flops(c, ROWS * LENGTH, LENGTH).values())


@pytest.mark.parametrize("name", CASES)
def test_activations_are_those_that_autograd_keeps(name: str) -> None:
    c = CASES[name]
    model = build(c, 0)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids, segments = tokens(c)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(ids, segments)
    planned = budget.activation_bytes(c, ROWS * LENGTH, 4, on_cpu=True)
    assert out.hidden.requires_grad
    assert sum(kept.values()) == pytest.approx(sum(planned.values()) - planned["logits"], rel=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_published_bytes_are_those_of_a_publish(precision: Precision) -> None:
    c = replace(SHAPE, hidden_size=128, intermediate_size=256, moe_intermediate_size=128, num_nextn_predict_layers=1)
    sent = [t for part in publish.publish(build(c, 0), 0, precision).parts for t in part.tensors.values()]
    assert sum(t.nbytes for t in sent) == pytest.approx(budget.weight_bytes(c, precision), rel=0.02)


def test_decoding_few_rows_waits_for_memory_and_many_for_products() -> None:
    c, at = config.from_hf(DEEPSEEK_V3, "test"), budget.HARDWARE["h200"]
    one, all_rows = (budget.decode_seconds(c, at, "fp8", rows, 1, 1000, 1.0) for rows in (1, 100_000))
    assert 37e9 / at.bandwidth * 0.9 < one < 37e9 * 4 / at.bandwidth
    assert all_rows > 2 * 37e9 * 100_000 / at.flops["fp8"] * 0.9
    assert budget.experts_touched(c, 1) == pytest.approx(8)
