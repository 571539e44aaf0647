"""Our forward pass beside Hugging Face's, on the same weights read from the same folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import checkpoint
from model.segments import Segments
from model.transformer import build
from tests.fakes import TINY, tiny_tokenizer

CASES = {
    "plain": {},
    "low-rank queries": {"q_lora_rank": 24},
    "YaRN": {"rope_factor": 8.0, "rope_original_max_position_embeddings": 16, "rope_beta_fast": 4.0},
    "groups": {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5},
    "no dense layer": {"first_k_dense_replace": 0, "n_shared_experts": 2},
    "gates not normalised": {"norm_topk_prob": False},
}


@pytest.mark.parametrize("name", CASES)
def test_forward_equals_hf(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    model = build(replace(TINY, **CASES[name]), seed=0)
    for router in model.routers():
        router.e_score_correction_bias.normal_(std=0.2)
    checkpoint.save(model, tiny_tokenizer(), tmp_path)
    theirs = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(0, TINY.vocab_size, (3, 40))
    with torch.no_grad():
        expected = theirs(tokens).logits.log_softmax(-1)
        hidden = model(tokens.flatten(), Segments.of([40] * 3)).hidden
        got = model.logits(hidden).log_softmax(-1).view_as(expected)
    assert (got - expected).abs().max() < 1e-5


def test_routing_equals_hf() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

    from model.moe import Router

    config = replace(TINY, n_routed_experts=16, n_group=4, topk_group=2, num_experts_per_tok=3)
    ours = Router(config)
    torch.nn.init.normal_(ours.weight)
    ours.e_score_correction_bias.normal_(std=0.5)
    theirs = DeepseekV3TopkRouter(
        transformers.DeepseekV3Config(
            hidden_size=config.hidden_size, n_routed_experts=16, n_group=4, topk_group=2, num_experts_per_tok=3,
            routed_scaling_factor=config.routed_scaling_factor,
        )
    )  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(200, config.hidden_size)
    routing = ours(x)
    _, gates, indices = theirs(x)
    dense = torch.zeros(200, 16)
    assert torch.allclose(dense.scatter(1, routing.indices, routing.gates), dense.scatter(1, indices, gates), atol=1e-6)
