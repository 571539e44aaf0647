"""Models of the Qwen and Llama families, through transformers, under the same trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import parts
from jobs.config import OptimizerTable, TrainPrecisionTable
from model import hf
from model.config import ConfigError
from model.policy import OptimizerSettings
from model.segments import Segments
from rl.supervised import update
from tests.fakes import tiny_tokenizer
from tests.rl.test_supervised import SOME

transformers = pytest.importorskip("transformers")
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def folder_of(family: str, folder: Path, **changes: Any) -> Path:
    """A tiny random model as transformers saves it, with a tokenizer and a chat template."""
    kind = {"qwen2": "Qwen2", "llama": "Llama"}[family]
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    backend = tiny_tokenizer().backend
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    backend.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps({**described, "chat_template": TEMPLATE}))
    return folder


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_packed_and_padded_it_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    folder = folder_of(family, tmp_path / "base")
    policy = hf.HFPolicy(folder, OptimizerSettings())
    lengths = [5, 9, 2]
    tokens = torch.randint(2, 300, (sum(lengths),))
    hidden = policy.model(tokens, Segments.of(lengths)).hidden
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for found, part in zip(policy.model.logits(hidden).split(lengths), tokens.split(lengths), strict=True):
        torch.testing.assert_close(found, reference(part.unsqueeze(0)).logits[0], rtol=1e-4, atol=1e-5)


def test_what_is_saved_transformers_loads_and_training_goes_on_to_the_bit(tmp_path: Path) -> None:
    folder = folder_of("qwen2", tmp_path / "base", tie_word_embeddings=True)
    policy = hf.HFPolicy(folder, OptimizerSettings(lr=1e-2))
    losses = [update(policy, SOME, 1000)["loss"] for _ in range(3)]
    assert losses[2] < losses[0]
    saved = tmp_path / "saved"
    saved.mkdir()
    policy.save(saved)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(saved)
    ids = torch.tensor([SOME[1].ids])
    expected = policy.model.logits(policy.model(ids[0], Segments.of([ids.numel()])).hidden)
    torch.testing.assert_close(loaded(ids).logits[0], expected, rtol=1e-4, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved)
    assert tokenizer.eos_token == "<|im_end|>"
    again = hf.HFPolicy(folder, OptimizerSettings(lr=1e-2))
    again.restore(saved)
    assert update(again, SOME, 1000)["loss"] == update(policy, SOME, 1000)["loss"]


def test_a_layout_is_the_one_of_transformers(tmp_path: Path) -> None:
    folder = folder_of("qwen2", tmp_path / "base")
    _, tokenizer = parts.shape(folder)
    from model.chat import Layout

    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+2?"}]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    expected = theirs.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    assert list(Layout(tokenizer).prompt(talk)) == expected


def test_bf16_is_taken_and_fp8_refused(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "base")
    settings = OptimizerTable(lr=1e-3)
    policy = parts.make_policy(folder, settings, TrainPrecisionTable(train="bf16"))
    ids, segments = torch.arange(5), Segments.of([5])
    rounded = policy.model(ids, segments).hidden
    exact = parts.make_policy(folder, settings, TrainPrecisionTable(train="fp32")).model(ids, segments).hidden
    assert 1e-4 < (rounded - exact).abs().max() < 0.1
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match="fp8"):
        parts.make_policy(folder, settings, TrainPrecisionTable(train="fp8"))


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ConfigError, match=r"'mamba'.*qwen2"):
        parts.shape(tmp_path)


def test_a_reward_model_has_such_a_body_too(tmp_path: Path) -> None:
    from model.reward import Card, RewardModel, RewardPolicy
    from rl import preferences

    folder = folder_of("qwen2", tmp_path / "base")
    policy = RewardPolicy(folder, OptimizerSettings(lr=1e-2), "fp32", "{prompt}=")
    policy.describe = lambda: Card("{prompt}=")
    pairs = [preferences.Pair((*each.ids, 7), (*each.ids, 9)) for each in SOME]
    losses = [preferences.update(policy, pairs, 1000)["loss"] for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    saved = tmp_path / "saved"
    saved.mkdir()
    policy.save_weights(saved)
    (score,) = RewardModel(saved).scores([("1+1", "2")])
    ids = RewardModel(saved).layout.answered("1+1", "2").ids
    with torch.no_grad():
        hidden = transformers.AutoModelForCausalLM.from_pretrained(saved).model(torch.tensor([ids])).last_hidden_state
        assert score == pytest.approx(float(policy.scorer.score(hidden[0, -1])), abs=1e-4)
