"""What a user sees: one clear message and the right exit status, and nothing half-written. A process takes seconds to
start, so most calls are made in this one."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from jobs import serve_model, serve_rewards, serve_sandbox
from jobs.cli import COMMANDS
from jobs.view import command as view
from model.tokenizer import Tokenizer
from rl.journal import read_load
from tests.jobs.conftest import Done, Workspace, Zeroth, assert_refused

ROOT = Path(__file__).resolve().parents[2]


def started(*arguments: object) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "jobs", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=120, env={**os.environ, "COLUMNS": "200"}, check=False,
    )  # fmt: skip


def test_a_wrong_key(workspace: Workspace) -> None:
    done = started("grpo", workspace.recipe, "rollout.samples_per_grop=3")
    assert_refused(done, str(workspace.recipe), "rollout.samples_per_grop", "rollout.samples_per_group")
    assert not workspace.run.exists()


def test_a_malformed_problem_line(workspace: Workspace, zeroth: Zeroth) -> None:
    with workspace.problems.open("a") as file:
        file.write('{"id": "x"\n')
    assert_refused(zeroth("grpo", workspace.recipe), f"{workspace.problems}:9", "not JSON")
    assert not workspace.run.exists()


def test_a_problem_without_what_its_reward_needs(workspace: Workspace, zeroth: Zeroth) -> None:
    workspace.write_problems([{"id": "p", "prompt": "1+1", "reward": "math"}])
    assert_refused(zeroth("grpo", workspace.recipe), "'p'", "answer")


def test_an_unknown_reward(workspace: Workspace, zeroth: Zeroth) -> None:
    workspace.write_problems([{"id": "p", "prompt": "1+1", "reward": "maths", "answer": "2"}])
    assert_refused(zeroth("grpo", workspace.recipe), f"{workspace.problems}: problem 'p'", "'maths'", "math")


def test_settings_of_an_unknown_reward(workspace: Workspace, zeroth: Zeroth) -> None:
    settings = ("reward.settings.maths.timeout_s=3", "reward.settings.code.workers=1")
    assert_refused(zeroth("grpo", workspace.recipe, *settings), "reward.settings", "'maths'", "'math'")


def test_a_missing_checkpoint(workspace: Workspace, zeroth: Zeroth) -> None:
    assert_refused(zeroth("grpo", workspace.recipe, f"base={workspace.folder / 'nowhere'}"), "nowhere", "checkpoint")


def test_a_prompt_that_fills_the_context(workspace: Workspace, zeroth: Zeroth) -> None:
    workspace.write_problems([{"id": "long", "prompt": "1+" * 200, "reward": "math", "answer": "2"}])
    assert_refused(zeroth("grpo", workspace.recipe), "'long'", "context")


def test_a_run_directory_in_use(workspace: Workspace, zeroth: Zeroth) -> None:
    workspace.run.mkdir()
    (workspace.run / "metrics.jsonl").write_text("")
    assert_refused(zeroth("grpo", workspace.recipe), "--resume")


def test_a_run_directory_that_cannot_be_made(workspace: Workspace, zeroth: Zeroth) -> None:
    done = zeroth("grpo", workspace.recipe, f"run.dir={workspace.problems}/run")
    assert done.returncode == 1
    assert done.stderr.split() == f"error: {workspace.problems}/run: Not a directory".split()


def test_ctrl_c_outside_a_loop_that_answers_it_is_told(
    workspace: Workspace, zeroth: Zeroth, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.config.find", pressed)
    done = zeroth("grpo", workspace.recipe)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize("moment", ["ray.init", "jobs.cluster.Cluster.require"])
def test_sigterm_before_the_loop_is_told_as_ctrl_c_is(
    workspace: Workspace, zeroth: Zeroth, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """While Ray starts, which answers it by an end without a word, and after."""

    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        if moment == "ray.init":
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("jobs.cluster.Cluster.require", lambda *_: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    done = zeroth("grpo", workspace.recipe)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_full_disk_is_told_whatever_is_written(
    workspace: Workspace, zeroth: Zeroth, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str) -> None:
        Path("/dev/full").write_text("x")

    monkeypatch.setattr("jobs.config.find", full)
    done = zeroth("grpo", workspace.recipe)
    assert (done.returncode, done.stderr.split(":")[:2]) == (1, ["error", " No space left on device"])


def test_a_template_without_a_prompt(workspace: Workspace, zeroth: Zeroth) -> None:
    assert_refused(zeroth("grpo", workspace.recipe, "data.template=nothing"), "{prompt}")


def test_nothing_to_resume(workspace: Workspace, zeroth: Zeroth) -> None:
    assert_refused(zeroth("grpo", workspace.recipe, "--resume"), "no run to resume")


def test_an_absent_recipe(zeroth: Zeroth) -> None:
    assert_refused(zeroth("grpo", "nowhere.toml"), "nowhere.toml", "quickstart")


def test_a_dry_run_prints_the_resolved_recipe_and_writes_nothing(workspace: Workspace, zeroth: Zeroth) -> None:
    done = zeroth("grpo", workspace.recipe, "--dry-run", "rollout.lag=3")
    assert done.returncode == 0, done.stderr
    assert "lag = 3" in done.stdout
    assert "clip_high = 0.28" in done.stdout
    assert not workspace.run.exists()


def test_eval_reports_by_reward(workspace: Workspace, zeroth: Zeroth) -> None:
    options = ("--samples", 2, "--max-tokens", 4, "--template", "{prompt}=", "--json")
    done = zeroth("eval", workspace.base, "--suite", workspace.problems, *options)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["suites"][str(workspace.problems)]["math"]
    assert (row["problems"], row["samples"], row["mean"]["value"]) == (8, 2, 0.0)


def test_eval_scores_given_responses(workspace: Workspace, zeroth: Zeroth) -> None:
    path = workspace.folder / "responses.jsonl"
    path.write_text("".join(json.dumps({"id": i, "response": f"\\boxed{{{i + i % 2}}}"}) + "\n" for i in range(8)))
    done = zeroth("eval", "--responses", path, "--suite", workspace.problems, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["suites"][str(workspace.problems)]["math"]["pass@k"]["1"]["value"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "one of CHECKPOINT"),
        (["--reference", "--endpoint", "http://x"], "given: --endpoint, --reference"),
        (["--endpoint", "http://x"], "--model"),
        (["--reference"], "no reference response"),
    ],
)
def test_eval_that_is_not_told_what_to_do(
    workspace: Workspace, arguments: list[str], word: str, zeroth: Zeroth
) -> None:
    assert_refused(zeroth("eval", *arguments, "--suite", workspace.problems), word)


def test_eval_of_nothing(workspace: Workspace, zeroth: Zeroth) -> None:
    assert_refused(zeroth("eval", workspace.folder / "none", "--suite", workspace.problems), "no such checkpoint")


def documents(folder: Path) -> Path:
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i}+1={i + 1}"}) + "\n" for i in range(40)))
    return path


PRETRAIN = ["data.vocab_size=300", "optimizer.lr=1e-3", "train.steps=6", "train.batch_documents=4",
            "model.hidden_size=32", "model.num_attention_heads=2", "model.max_position_embeddings=64",
            "model.num_hidden_layers=2", "train.balance=1e-3"]  # fmt: skip


def pretrain(run: Zeroth, workspace: Workspace, *arguments: str) -> Done:
    recipe = workspace.folder / "pretrain.toml"
    recipe.write_text("")
    paths = [f"run.dir={workspace.run}", f"data.documents={documents(workspace.folder)}"]
    return run("pretrain", recipe, *paths, *PRETRAIN, *arguments)


def test_pretrain_makes_a_checkpoint_and_resumes_to_the_same_weights(workspace: Workspace, zeroth: Zeroth) -> None:
    done = pretrain(zeroth, workspace, "run.checkpoint_every=3", "run.keep_checkpoints=9")
    assert done.returncode == 0, done.stderr
    whole = (workspace.run / "checkpoints" / "step-6" / "model.safetensors").read_bytes()
    shutil.rmtree(workspace.run / "checkpoints" / "step-6")
    assert pretrain(zeroth, workspace, "run.checkpoint_every=3", "--resume").returncode == 0
    assert (workspace.run / "checkpoints" / "step-6" / "model.safetensors").read_bytes() == whole
    steps = [json.loads(line)["step"] for line in (workspace.run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_pretrain_encodes_its_texts_before_one_arena_is_left_to_all_threads(
    workspace: Workspace, zeroth: Zeroth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads that encode would wait for each other: 18 s instead of 8 for 192,000 documents, with two."""
    happened: list[str] = []
    encode = Tokenizer.encode_batch

    def encoded(self: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        happened.append("encoded")
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", encoded)
    monkeypatch.setattr("jobs.memory.keep_freed", lambda: happened.append("kept"))
    assert pretrain(zeroth, workspace).returncode == 0
    assert happened == ["encoded", "kept"]


def test_pretrain_trains_multi_token_prediction(workspace: Workspace, zeroth: Zeroth) -> None:
    done = pretrain(zeroth, workspace, "model.num_nextn_predict_layers=1", "train.mtp_weight=0.3")
    assert done.returncode == 0, done.stderr
    assert "mtp_loss" in (workspace.run / "metrics.jsonl").read_text()
    load = read_load(workspace.run)
    assert [step for step, _ in load] == [1, 2, 3, 4, 5, 6]
    assert list(load[0][1]) == [1, 2], "the MTP module's experts are counted too"
    assert zeroth("report", workspace.run).returncode == 0
    assert "expert load over the mean" in (workspace.run / "report.html").read_text()


def test_a_full_disk_ends_in_one_message_and_nothing_half_written(workspace: Workspace) -> None:
    recipe = workspace.folder / "pretrain.toml"
    recipe.write_text("")
    paths = [f"run.dir={workspace.run}", f"data.documents={documents(workspace.folder)}"]
    # No file may grow beyond 20 kB: the weights do not fit.
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); from jobs.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "pretrain", str(recipe), *paths, *PRETRAIN],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "free space" in done.stderr
    assert list((workspace.run / "checkpoints").iterdir()) == []


def test_a_malformed_document(workspace: Workspace, zeroth: Zeroth) -> None:
    path = documents(workspace.folder)
    path.write_text(path.read_text() + "{}\n")
    recipe = workspace.folder / "pretrain.toml"
    recipe.write_text("")
    assert_refused(
        zeroth("pretrain", recipe, f"run.dir={workspace.run}", f"data.documents={path}", *PRETRAIN), f"{path}:41"
    )


def test_an_unknown_model_key(workspace: Workspace, zeroth: Zeroth) -> None:
    assert_refused(pretrain(zeroth, workspace, "model.hiden_size=3"), "hiden_size", "hidden_size")


@pytest.mark.parametrize("command", [name for panel in COMMANDS.values() for name in panel if name != "lm-eval"])
def test_every_command_explains_itself(command: str, zeroth: Zeroth) -> None:
    done = zeroth(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_services_stand_beside_each_other() -> None:
    services = (serve_model.model, serve_rewards.rewards, serve_sandbox.sandbox, view.command)
    ports = [inspect.signature(service).parameters["port"].default for service in services]
    assert len(set(ports)) == len(services)


def test_the_version(zeroth: Zeroth) -> None:
    done = zeroth("--version")
    assert (done.returncode, done.stdout) == (0, f"zeroth {version('zeroth')}\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA device")
@pytest.mark.parametrize(("other", "words"), [((), "--gpu needs a Hopper GPU"), (("--full",), "leave out --gpu")])
def test_a_quickstart_on_a_gpu_is_refused_where_it_cannot_run(
    other: tuple[str, ...], words: str, tmp_path: Path, zeroth: Zeroth
) -> None:
    assert_refused(zeroth("quickstart", "--gpu", *other, "--out", tmp_path / "run"), words)
    assert not (tmp_path / "run").exists()
