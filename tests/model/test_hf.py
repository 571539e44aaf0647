"""Our forward pass beside Hugging Face's, on the same weights read from the same folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import checkpoint
from model.segments import Segments
from model.transformer import Transformer, build
from tests.fakes import TINY, tiny_tokenizer

CASES = {
    "plain": {},
    "low-rank queries": {"q_lora_rank": 24},
    "YaRN": {"rope_factor": 8.0, "rope_original_max_position_embeddings": 16, "rope_beta_fast": 4.0},
    "groups": {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5},
    "no dense layer": {"first_k_dense_replace": 0, "n_shared_experts": 2},
    "gates not normalised": {"norm_topk_prob": False},
    "V2": {"scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 1.5, "n_shared_experts": 2},
    "V2, groups and YaRN": {
        "scoring_func": "softmax", "norm_topk_prob": False, "n_routed_experts": 8, "n_group": 4, "topk_group": 2,
        "rope_factor": 8.0, "rope_original_max_position_embeddings": 16, "rope_beta_fast": 4.0, "rope_mscale": 0.707,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_forward_equals_hf(name: str, tmp_path: Path) -> None:
    model = varied(build(replace(TINY, **CASES[name]), seed=0))
    checkpoint.save(model, tiny_tokenizer(), tmp_path)
    assert_equal_to_hf(model, tmp_path)


def test_a_bf16_folder_of_several_files_with_mtp_loads_in_hf(tmp_path: Path) -> None:
    c = replace(TINY, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, q_lora_rank=128)
    model = varied(build(replace(c, num_nextn_predict_layers=1), seed=0))
    checkpoint.save(model, tiny_tokenizer(), tmp_path, "bf16", shard_bytes=200_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_equal_to_hf(checkpoint.load(tmp_path)[0], tmp_path)


def test_a_fp8_folder_is_decoded_by_hf_as_by_us(tmp_path: Path) -> None:
    """With whole blocks, which is all that transformers decodes on a CPU."""
    transformers = pytest.importorskip("transformers")
    sizes = {"kv_lora_rank": 64, "qk_rope_head_dim": 64, "qk_nope_head_dim": 64, "v_head_dim": 64, "q_lora_rank": 128}
    c = replace(TINY, hidden_size=128, intermediate_size=256, moe_intermediate_size=128, **sizes)
    checkpoint.save(varied(build(c, seed=0)), tiny_tokenizer(), tmp_path, "fp8")
    decoded = transformers.FineGrainedFP8Config(dequantize=True)
    assert_equal_to_hf(checkpoint.load(tmp_path)[0], tmp_path, quantization_config=decoded)


def varied(model: Transformer) -> Transformer:
    """Routing biases and norms that are not what they start as."""
    torch.manual_seed(1)
    for router in model.routers():
        if model.c.scoring_func == "sigmoid":
            router.e_score_correction_bias.normal_(std=0.2)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def assert_equal_to_hf(model: Transformer, folder: Path, **settings: object) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings)
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
