"""Which server is started for a vLLM engine, and on what; the program here only says how it was called."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.lifecycle import ServiceError
from jobs.serving import vllm_server
from tests.jobs.conftest import Workspace

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """#!{python}
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[2])
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
    option, folder, *options = said["arguments"]
    assert option == "--model"
    assert Path(folder).parent == workspace.folder
    assert said["config"]["architectures"] == ["DeepseekV3ForCausalLM"]
    assert said["config"]["dtype"] == "bfloat16"
    assert options[:6] == ["--served-model-name", "base", "--host", "127.0.0.1", "--port", "1234"]
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
