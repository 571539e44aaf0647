from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import checkpoint, config, fp8, hf, layout
from model.checkpoint import WEIGHTS, CheckpointError, written_whole
from model.config import ConfigError, ModelConfig, Precision
from model.shards import INDEX, Shards
from model.transformer import build
from tests.fakes import TINY, tiny_tokenizer

MTP = replace(TINY, num_nextn_predict_layers=1, q_lora_rank=12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = build(MTP, seed=4)
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


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_several_files_hold_what_the_precision_keeps(tmp_path: Path, precision: Precision) -> None:
    """With 576 rows in kv_a_proj, which are not whole blocks."""
    c = replace(TINY, hidden_size=160, kv_lora_rank=512, qk_rope_head_dim=64, num_nextn_predict_layers=1)
    model = build(c, seed=4)
    model.routers()[0].e_score_correction_bias.normal_()
    checkpoint.save(model, tiny_tokenizer(), tmp_path, precision, shard_bytes=400_000)
    files = {path.name: load_file(path) for path in tmp_path.glob("model-*.safetensors")}
    index = json.loads((tmp_path / INDEX).read_text())
    assert len(files) > 2
    assert index["weight_map"] == {name: file for file, tensors in files.items() for name in tensors}
    assert index["metadata"]["total_size"] == sum(t.nbytes for tensors in files.values() for t in tensors.values())

    def kept(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if precision == "fp32" or name.endswith("correction_bias"):
            return tensor
        blocks = precision == "fp8" and "_proj" in name and "eh_proj" not in name
        return fp8.round_blocks(tensor) if blocks else tensor.bfloat16().float()

    loaded = dict(layout.to_published(checkpoint.load(tmp_path)[0].state_dict(), c))
    for name, tensor in layout.to_published(model.state_dict(), c):
        assert torch.equal(loaded[name], kept(name, tensor)), name


def test_an_export_never_holds_more_than_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    decoded = checkpoint._decoded

    def counted(stored: Shards, name: str) -> torch.Tensor:
        nonlocal most
        tensor = decoded(stored, name).clone()
        alive.append(weakref.ref(tensor))
        most = max(most, sum(t.nbytes for ref in alive if (t := ref()) is not None))
        return tensor

    monkeypatch.setattr(checkpoint, "_decoded", counted)
    with written_whole(folder.with_name("out")) as draft:
        checkpoint.export(folder, draft, "fp32", 50_000, None)
    total = sum(path.stat().st_size for path in folder.with_name("out").glob("*.safetensors"))
    assert most < 2 * 50_000 < total / 2


def test_names_are_the_published_ones(folder: Path) -> None:
    names = set(load_file(folder / WEIGHTS))
    assert "model.layers.1.mlp.experts.3.up_proj.weight" in names
    assert "model.layers.0.self_attn.kv_a_proj_with_mqa.weight" in names
    assert "model.layers.1.mlp.gate.e_score_correction_bias" in names
    for mtp in (
        "embed_tokens",
        "shared_head.head",
        "enorm",
        "hnorm",
        "eh_proj",
        "shared_head.norm",
        "self_attn.q_b_proj",
        "mlp.gate",
    ):
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


def test_every_truncated_tensor_is_named(folder: Path) -> None:
    path = folder / WEIGHTS
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    del header["__metadata__"]
    *_, third, second, last = sorted(header, key=lambda name: header[name]["data_offsets"])
    path.write_bytes(whole[: 8 + length + header[third]["data_offsets"][1] - 1])
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(folder)
    named = [line.split()[1].rstrip(":") for line in str(error.value).splitlines() if line.startswith("  truncated ")]
    assert named == sorted([third, second, last])


@pytest.mark.parametrize("kept", [0, 5, 500])
def test_a_file_without_its_whole_header_is_refused(folder: Path, kept: int) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}: damaged or truncated"):
        checkpoint.load(folder)


def test_a_header_that_lies_about_sizes_is_refused(folder: Path) -> None:
    path = folder / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"shape":[32,16]', b'"shape":[32,17]', 1))
    with pytest.raises(CheckpointError, match="does not take"):
        checkpoint.load(folder)


def test_an_index_and_its_files_must_agree(folder: Path) -> None:
    model, tokenizer = checkpoint.load(folder)
    checkpoint.save(model, tokenizer, folder, shard_bytes=30_000)
    (folder / WEIGHTS).unlink()
    path = folder / INDEX
    index = json.loads(path.read_text())
    first, second, *_ = sorted(set(index["weight_map"].values()))
    moved = next(name for name, file in index["weight_map"].items() if file == first)
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "model.other.weight": second}}))
    with pytest.raises(CheckpointError, match=f"missing model.other.weight: .* in {second}"):
        checkpoint.load(folder)
    path.write_text(json.dumps({"weight_map": {moved: "../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match="not an index"):
        checkpoint.load(folder)
    path.write_text(json.dumps(index))
    (folder / second).unlink()
    with pytest.raises(CheckpointError, match=f"there is no {second}"):
        checkpoint.load(folder)


def test_fp8_weights_need_scales_of_their_shape(tmp_path: Path) -> None:
    checkpoint.save(build(TINY, seed=4), tiny_tokenizer(), tmp_path, "fp8")
    tensors = load_file(tmp_path / WEIGHTS)
    first, second = sorted(name for name in tensors if name.endswith("_scale_inv"))[:2]
    tensors[second] = torch.ones(3, 3)
    del tensors[first]
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path)
    assert f"missing {first}" in str(error.value)
    assert f"{second} has shape [3, 3]" in str(error.value)


def test_a_copy_that_is_none_and_a_dtype_of_no_weight_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.2.shared_head.head.weight"] += 1
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="must be a copy of lm_head.weight"):
        checkpoint.load(folder)
    tensors["model.norm.weight"] = torch.ones(32, dtype=torch.int64)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="model.norm.weight has dtype I64"):
        checkpoint.load(folder)


def test_copies_may_lack_and_constants_may_be_there(folder: Path) -> None:
    tensors = {n: t for n, t in load_file(folder / WEIGHTS).items() if n not in layout.copies(MTP)}
    save_file({**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / WEIGHTS)
    assert checkpoint.load(folder)[0].c.num_nextn_predict_layers == 1


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


def test_a_run_in_place_of_its_checkpoint_is_told_the_last(tmp_path: Path) -> None:
    for step in (8, 10):
        (tmp_path / "checkpoints" / f"step-{step}").mkdir(parents=True)
    for look in (checkpoint.shape, hf.is_ours):
        with pytest.raises(config.ConfigError, match=r"last of its checkpoints is \S+/step-10$"):
            look(tmp_path)
