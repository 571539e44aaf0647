"""`zeroth export`: what it writes is loaded by transformers, says the same, and talks as the run's template does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jobs.cli import main
from model import checkpoint
from model.chat import DEFAULT_CHAT, Layout, as_chat, fill
from model.segments import Segments
from rl.problems import R1_ZERO
from tests.fakes import tiny_tokenizer
from tests.jobs.conftest import Workspace

MESSAGES = [
    {"role": "user", "content": 'What is "1+2"?\n'},
    {"role": "assistant", "content": "3"},
    {"role": "user", "content": "{prompt} and {{ 2 }}?"},
]


def export(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as done:
        main(["export", *map(str, arguments)])
    return int(done.value.code or 0)


def test_transformers_loads_what_is_exported(workspace: Workspace, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    step = workspace.run / "checkpoints" / "step-4"
    step.parent.mkdir(parents=True)
    workspace.base.rename(step)
    (workspace.run / "recipe.toml").write_text('[data]\ntemplate = "Q: {prompt}\\nA:"\n')
    out = tmp_path / "out"
    assert export(step, out, "--shard-mb", "1") == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ours, ours_tokenizer = checkpoint.load(out)
    ids = tokenizer("What is 1+2?", add_special_tokens=False)["input_ids"]
    assert ids == ours_tokenizer.encode("What is 1+2?")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (ours_tokenizer.bos, ours_tokenizer.eos)
    asked = tokenizer.apply_chat_template(MESSAGES[:1], tokenize=False, add_generation_prompt=True)
    assert asked == fill("Q: {prompt}\nA:", MESSAGES[:1])
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        got = ours.logits(ours(torch.tensor(ids), Segments.of([len(ids)])).hidden).log_softmax(-1)
    assert (theirs - got).abs().max() < 1e-5


@pytest.mark.parametrize("template", [R1_ZERO, "User: {prompt}\nAssistant: <think>", "{prompt}"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_chat_template_says_what_the_template_says(template: str, count: int) -> None:
    layout = Layout(tiny_tokenizer(), chat=as_chat(template))
    assert layout.render(MESSAGES[:count], add_generation_prompt=True) == fill(template, MESSAGES[:count])


def test_a_fp8_export_says_so_and_is_read_back(workspace: Workspace, tmp_path: Path) -> None:
    assert export(workspace.base, tmp_path / "fp8", "--precision", "fp8") == 0
    assert export(tmp_path / "fp8", tmp_path / "again", "--precision", "bf16") == 0
    values = json.loads((tmp_path / "fp8" / "config.json").read_text())
    assert values["quantization_config"]["weight_block_size"] == [128, 128]
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    eight, again = (checkpoint.load(tmp_path / name)[0].state_dict() for name in ("fp8", "again"))
    for name, tensor in eight.items():
        assert torch.allclose(again[name], tensor, rtol=2**-8, atol=0), name


def test_a_chat_template_of_the_checkpoint_stays(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.base / "chat_template.jinja").write_text(DEFAULT_CHAT)
    assert export(workspace.base, tmp_path / "out") == 0
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == DEFAULT_CHAT


def test_a_bad_call_writes_nothing(workspace: Workspace, tmp_path: Path) -> None:
    assert export(workspace.base, tmp_path / "out", "--precision", "int4") == 2
    assert export(tmp_path / "nowhere", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()
    assert export(workspace.base, workspace.base) == 2
    assert checkpoint.load(workspace.base)
