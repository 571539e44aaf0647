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
from pathlib import Path
from typing import Any

import pytest

from jobs.lifecycle import ServiceError
from jobs.serving import vllm_server
from model import checkpoint
from tests.fakes import LOADABLE, tiny_policy
from tests.jobs.conftest import Workspace

ROOT = Path(__file__).resolve().parents[3]
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


class Started:
    """`zeroth serve model --engine vllm` with a program of that name first on the path."""

    def __init__(self, workspace: Workspace, seconds: float) -> None:
        tools = workspace.folder / "tools"
        tools.mkdir()
        self.said = workspace.folder / "said.json"
        program = tools / "vllm"
        program.write_text(PROGRAM.format(python=sys.executable, said=self.said, seconds=seconds))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (workspace.folder / "key").write_text("secret\n")
        run = (
            "import sys; from jobs.serving import vllm_server; "
            f"vllm_server.program = lambda: [{str(program)!r}]; from jobs.cli import main; main()"
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
    started = Started(workspace, seconds=60)
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


def test_a_server_that_ends_by_itself_is_a_failed_run(workspace: Workspace) -> None:
    started = Started(workspace, seconds=0)
    _, said = started.process.communicate(timeout=60)
    assert started.process.returncode == 1
    assert "ended with status 0" in said


def test_without_vllm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "find_spec", lambda name: None)
    with pytest.raises(ServiceError, match=r"pip install 'zeroth\[gpu\]'"):
        vllm_server.program()


class Real:
    """`zeroth serve model --engine vllm` on a tiny checkpoint, with vLLM's own server."""

    def __init__(self, folder: Path) -> None:
        import openai

        policy = tiny_policy(**LOADABLE)
        self.base, key = folder / "tiny", folder / "key"
        self.base.mkdir()
        checkpoint.save(policy.model, policy.tokenizer, self.base)
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
    from model.likelihood import likelihoods

    model, tokenizer = checkpoint.load(real.base)
    prompt = tokenizer.encode("1+2=")
    made = real.client.completions.create(
        model="tiny", prompt=list(prompt), max_tokens=8, temperature=1.0, seed=3, logprobs=1,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    ).choices[0]  # fmt: skip
    ids: list[int] = made.model_extra["token_ids"]
    (wanted,) = likelihoods(model, [[*prompt, *ids]], 1)
    assert len(ids) == 8
    assert made.logprobs.token_logprobs == pytest.approx(list(wanted.logprobs)[-8:], abs=1e-4)
    assert made.text == tokenizer.decode(ids)


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
