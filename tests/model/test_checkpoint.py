from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import checkpoint, config
from model.checkpoint import WEIGHTS, CheckpointError, written_whole
from model.config import ConfigError, ModelConfig
from model.transformer import build
from tests.fakes import TINY, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = build(replace(TINY, num_nextn_predict_layers=1, q_lora_rank=12), seed=4)
    model.routers()[0].e_score_correction_bias.normal_()
    checkpoint.save(model, tiny_tokenizer(), tmp_path)
    return tmp_path


def test_what_is_loaded_is_what_was_saved(folder: Path) -> None:
    model, tokenizer = checkpoint.load(folder)
    expected = build(model.c, seed=4).state_dict()
    expected["layers.1.mlp.gate.e_score_correction_bias"] = model.routers()[0].e_score_correction_bias
    assert model.routers()[0].e_score_correction_bias.abs().sum() > 0
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert tokenizer.decode(tokenizer.encode("1+2=3")) == "1+2=3"


def test_names_are_the_published_ones(folder: Path) -> None:
    names = set(load_file(folder / WEIGHTS))
    assert "model.layers.1.mlp.experts.3.up_proj.weight" in names
    assert "model.layers.0.self_attn.kv_a_proj_with_mqa.weight" in names
    assert "model.layers.1.mlp.gate.e_score_correction_bias" in names
    for mtp in ("enorm", "hnorm", "eh_proj", "shared_head.norm", "self_attn.q_b_proj", "mlp.gate"):
        assert f"model.layers.2.{mtp}.weight" in names


def test_every_tensor_that_does_not_fit_is_named(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.norm.weight"]
    tensors["model.layers.0.self_attn.o_proj.weight"] = torch.zeros(2, 2)
    tensors["extra.weight"] = torch.zeros(1)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(folder)
    message = str(error.value)
    assert "missing model.norm.weight" in message
    assert "unexpected extra.weight" in message
    assert "o_proj.weight has shape [2, 2], config.json asks for [32, 16]" in message


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        checkpoint.load(folder)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", WEIGHTS])
def test_a_folder_that_lacks_a_file_is_refused_by_name(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises((CheckpointError, ConfigError), match=missing):
        checkpoint.load(folder)


def test_an_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "nowhere")


def test_another_architecture_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ConfigError, match="llama"):
        checkpoint.load(folder)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    with pytest.raises(RuntimeError), written_whole(target) as draft:
        (draft / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with written_whole(target) as draft:
        (draft / "whole").write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_config_survives_hf(folder: Path) -> None:
    c = replace(TINY, rope_factor=40.0, rope_original_max_position_embeddings=32, q_lora_rank=7)
    assert config.from_hf(config.to_hf(c), "test") == c


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"n_routed_experts": 6, "n_group": 4}, "multiple"),
        ({"num_experts_per_tok": 9}, "exceeds"),
        ({"topk_group": 2}, "topk_group"),
        ({"qk_rope_head_dim": 3}, "even"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"n_routed_experts": 8, "n_group": 8, "topk_group": 4}, "at least 2"),
        ({"first_k_dense_replace": 9}, "first_k_dense_replace"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        ModelConfig(**changes)


def test_an_unknown_model_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'hidden_sizes'.*'hidden_size'"):
        config.from_recipe({"hidden_sizes": 3}, "recipe")
