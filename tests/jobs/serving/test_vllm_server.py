"""Which server is started for a vLLM engine, and on what: for most tests a program that says how it was called, for
the last ones vLLM's own."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.lifecycle import ServiceError
from jobs.serving import vllm_server
from model import checkpoint
from model.transformer import build
from tests.fakes import TINY, tiny_tokenizer
from tests.jobs.conftest import Workspace, Zeroth
from tests.model.test_hf import varied

ROOT = Path(__file__).resolve().parents[3]
# vLLM's latent attention on a CPU takes these head sizes alone.
HEADS = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
SHAPE = replace(
    TINY, **HEADS, hidden_size=128, q_lora_rank=128, intermediate_size=128, moe_intermediate_size=64,
    n_routed_experts=8, n_group=4, topk_group=2, routed_scaling_factor=2.5, num_nextn_predict_layers=1,
    num_hidden_layers=3,
)  # fmt: skip
PROGRAM = """#!{python}
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[-1])
said = {{"arguments": sys.argv[1:], "key": os.environ.get("VLLM_API_KEY")}}
said["config"] = json.loads((folder / "config.json").read_text())
said["chat"] = (folder / "chat_template.jinja").read_text()
pathlib.Path("{said}").with_suffix(".part").write_text(json.dumps(said))
pathlib.Path("{said}").with_suffix(".part").rename("{said}")
time.sleep({seconds})
"""


def program(folder: Path, seconds: float) -> Path:
    """In vLLM's place: tells in ``said.json`` how it was called, and ends after so long."""
    path = folder / "vllm"
    path.write_text(PROGRAM.format(python=sys.executable, said=folder / "said.json", seconds=seconds))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Started:
    """`zeroth serve model --engine vllm` with such a program."""

    def __init__(self, workspace: Workspace) -> None:
        self.said = workspace.folder / "said.json"
        (workspace.folder / "key").write_text("secret\n")
        run = (
            "import sys; from jobs.serving import vllm_server; "
            f"vllm_server.program = lambda: [{str(program(workspace.folder, 60))!r}]; from jobs.cli import main; main()"
        )
        arguments = ["serve", "model", str(workspace.base), "--engine", "vllm", "--port", "1234"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", run, *arguments, "--api-key-file", str(workspace.folder / "key")],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait(self) -> dict[str, Any]:
        while not self.said.exists():
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            time.sleep(0.05)
        found: dict[str, Any] = json.loads(self.said.read_text())
        return found


def test_vllms_server_is_started_on_the_export_and_stopped_with_the_command(workspace: Workspace) -> None:
    started = Started(workspace)
    said = started.wait()
    *options, option, folder = said["arguments"]
    assert option == "--model"
    assert Path(folder).parent == workspace.folder
    assert said["config"]["architectures"] == ["DeepseekV3ForCausalLM"]
    assert said["config"]["dtype"] == "bfloat16"
    assert options[:6] == ["--served-model-name", "base", "--host", "127.0.0.1", "--port", "1234"]
    assert options[-3:] == ["--dtype", "bfloat16", "--enforce-eager"]
    assert "Assistant: " in said["chat"]
    assert said["key"] == "secret"
    assert "secret" not in " ".join(said["arguments"])
    os.kill(started.process.pid, signal.SIGTERM)
    assert started.process.wait(60) == 0
    assert not Path(folder).exists()


def test_a_server_that_ends_by_itself_is_a_failed_run(
    workspace: Workspace, zeroth: Zeroth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "program", lambda: [str(program(workspace.folder, 0))])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own answers
    done = zeroth("serve", "model", workspace.base, "--engine", "vllm", "--port", "1234")
    assert done.returncode == 1
    assert "ended with status 0" in done.stderr


def test_without_vllm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "find_spec", lambda name: None)
    with pytest.raises(ServiceError, match=r"pip install 'zeroth\[gpu\]'"):
        vllm_server.program()


class Real:
    """`zeroth serve model --engine vllm` on a small checkpoint in BF16 and several files, with vLLM's own server."""

    def __init__(self, folder: Path) -> None:
        import openai

        tokenizer = tiny_tokenizer()
        shape = replace(SHAPE, bos_token_id=tokenizer.bos, eos_token_id=tokenizer.eos)
        self.base, key = folder / "tiny", folder / "key"
        self.base.mkdir()
        checkpoint.save(varied(build(shape, seed=3)), tokenizer, self.base, "bf16", shard_bytes=1_000_000)
        key.write_text("secret\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        self.client = openai.OpenAI(base_url=self.url, api_key="secret", max_retries=0)
        self.said = (folder / "said").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs", "serve", "model", str(self.base), "--engine", "vllm", "--precision", "fp32",
             "--port", str(port), "--api-key-file", str(key)],
            cwd=ROOT, stdout=self.said, stderr=self.said,
        )  # fmt: skip
        while not self.answers():
            assert self.process.poll() is None, Path(self.said.name).read_text()[-4000:]
            time.sleep(0.2)

    def answers(self) -> bool:
        import openai

        try:
            return bool(self.client.models.list().data)
        except openai.APIConnectionError:
            return False

    def end(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.said.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    pytest.importorskip("vllm", reason="needs vLLM")
    pytest.importorskip("openai", reason="needs the openai client")
    running = Real(tmp_path_factory.mktemp("vllm_server"))
    yield running
    assert running.end() == 0
    assert [path.name for path in running.base.parent.iterdir() if path.is_dir()] == ["tiny"], "the export is left"


@pytest.mark.vllm
@pytest.mark.slow
def test_vllms_own_server_gives_the_checkpoint_s_log_probabilities(real: Real) -> None:
    """Of prompts, and of what it samples."""
    from model.likelihood import likelihoods

    model, tokenizer = checkpoint.load(real.base)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(2, 300, (n,), generator=generator).tolist() for n in (40, 23)]
    made = real.client.completions.create(
        model="tiny", prompt=prompts, max_tokens=8, temperature=1.0, seed=3, logprobs=1,
        extra_body={"return_token_ids": True, "ignore_eos": True, "prompt_logprobs": 0},
    ).choices  # fmt: skip
    for prompt, choice in zip(prompts, made, strict=True):
        ids: list[int] = choice.model_extra["token_ids"]
        (ours,) = likelihoods(model, [[*prompt, *ids]], 1)
        places = choice.model_extra["prompt_logprobs"][1:]
        theirs = [place[str(token)]["logprob"] for place, token in zip(places, prompt[1:], strict=True)]
        assert len(ids) == 8
        assert theirs == pytest.approx(list(ours.logprobs)[:-8], abs=1e-5)
        assert choice.logprobs.token_logprobs == pytest.approx(list(ours.logprobs)[-8:], abs=1e-4)
        assert choice.text == tokenizer.decode(ids)


@pytest.mark.vllm
@pytest.mark.slow
def test_vllms_own_server_lays_out_conversations_by_our_template(real: Real) -> None:
    messages: Any = [{"role": "user", "content": "1+2?"}]
    made = real.client.chat.completions.create(model="tiny", messages=messages, max_tokens=4, temperature=0)
    plain = real.client.completions.create(model="tiny", prompt="User: 1+2?\nAssistant: ", max_tokens=4, temperature=0)
    assert made.choices[0].message.content == plain.choices[0].text


@pytest.mark.vllm
@pytest.mark.slow
def test_vllms_own_server_wants_the_api_key(real: Real) -> None:
    import openai

    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=real.url, api_key="guess", max_retries=0).models.list()
