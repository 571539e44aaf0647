from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from jobs import config, sft
from jobs.config import RecipeError, SftRecipe
from jobs.console import Interrupted
from rl.jsonl import DataError
from tests.jobs.conftest import Workspace, Zeroth, assert_refused
from tests.jobs.test_cli import ROOT

LINES: list[Mapping[str, object]] = [{"prompt": f"{i}+1", "response": f"{i + 1}"} for i in range(10)] + [
    {
        "messages": [
            {"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "no"},
        ]
    }
    for i in range(10)
]  # fmt: skip


def recipe_in(workspace: Workspace, lines: Sequence[Mapping[str, object]] = LINES) -> Path:
    data = workspace.folder / "samples.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = workspace.folder / "sft.toml"
    recipe.write_text(
        f'base = "{workspace.base}"\nrun = {{ dir = "{workspace.run}", checkpoint_every = 3, keep_checkpoints = 9 }}\n'
        f'data = {{ train = "{data}", held_out = "{data}" }}\ntrain = {{ steps = 6, batch_samples = 4 }}\n'
        "optimizer = { lr = 1e-2 }\nevaluate = { every = 2 }\n"
    )
    return recipe


def read(recipe: Path, *overrides: str) -> SftRecipe:
    return config.read(recipe, SftRecipe, overrides)


def metrics(workspace: Workspace) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workspace.run / "metrics.jsonl").read_text().splitlines()]


def weights(workspace: Workspace, step: int) -> bytes:
    return (workspace.run / "checkpoints" / f"step-{step}" / "model.safetensors").read_bytes()


def test_it_learns_and_validates_while_it_runs(workspace: Workspace) -> None:
    sft.train(read(recipe_in(workspace), "train.steps=12"), resume=False)
    seen = [(line["step"], line["validation/loss"]) for line in metrics(workspace) if "validation/loss" in line]
    assert [step for step, _ in seen] == [0, 2, 4, 6, 8, 10, 12]
    assert seen[-1][1] < 0.8 * seen[0][1]


def test_the_learning_rate_follows_a_cosine(workspace: Workspace) -> None:
    recipe = read(recipe_in(workspace), "optimizer.decay_steps=6", "optimizer.lr_floor=0", "optimizer.warmup_steps=2")
    sft.train(recipe, resume=False)
    rates = [line["lr"] for line in metrics(workspace) if "lr" in line]
    assert rates == pytest.approx([5e-3, 1e-2, 1e-2, 8.5355e-3, 5e-3, 1.4645e-3], rel=1e-3)


def test_a_run_that_was_stopped_ends_in_the_same_weights(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read(recipe_in(workspace))
    sft.train(recipe, resume=False)
    whole = weights(workspace, 6)
    workspace.run.rename(workspace.folder / "whole")
    from rl import supervised

    update, calls = supervised.update, []

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return update(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(supervised, "update", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="after step 4 of 6"):
        sft.train(recipe, resume=False)
    assert signal.getsignal(signal.SIGINT) is before
    sft.train(recipe, resume=True)
    assert weights(workspace, 6) == whole
    assert [line["step"] for line in metrics(workspace)] == [0, 1, 2, 3, 4, 5, 6]


def test_the_chat_template_goes_with_the_checkpoint(workspace: Workspace) -> None:
    template = workspace.folder / "mine.jinja"
    template.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
                        "{% if add_generation_prompt %}<assistant>{% endif %}")  # fmt: skip
    recipe = read(recipe_in(workspace), f"data.chat_template={template}", "train.steps=1", "evaluate.every=0")
    folder = sft.train(recipe, resume=False)
    assert (folder / "chat_template.jinja").read_text() == template.read_text()


@pytest.mark.parametrize(
    ("override", "changed"),
    [("data.template={prompt}=", True), ("train.batch_samples=2", True), ("train.micro_batch_tokens=10", False),
     ("train.sequence_tokens=14", True), ("run.seed=3", True), ("optimizer.weight_decay=0.5", True),
     ("precision.train=bf16", True), ("evaluate.lines=3", False)],
)  # fmt: skip
def test_a_key_moves_the_first_step(workspace: Workspace, override: str, changed: bool) -> None:
    recipe = recipe_in(workspace, LINES[:10])

    def first(*overrides: str) -> tuple[float, ...]:
        folder = workspace.folder / f"run-{len(overrides)}"
        sft.train(read(recipe, "train.steps=2", f"run.dir={folder}", *overrides), resume=False)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return tuple(round(line["loss"], 5) for line in lines if "loss" in line)

    assert (first() != first(override)) == changed


def test_samples_that_are_too_long_are_left_out_and_counted(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_in(workspace, [*LINES, {"prompt": "x" * 500, "response": "y"}])
    data = sft.checked(read(recipe), resume=False)
    assert len(data.train) == len(LINES)
    assert "1 of 21 are longer than 96 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"prompt": "1"}, "response"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no message of an assistant"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"prompt": "1", "response": 3}, "response"),
    ],
)
def test_a_malformed_line_is_named(workspace: Workspace, line: Mapping[str, object], words: str) -> None:
    recipe = recipe_in(workspace, [*LINES, line])
    with pytest.raises(RecipeError, match=rf"samples.jsonl:21: .*{words}"):
        sft.checked(read(recipe), resume=False)


def test_a_dry_run_checks_and_writes_nothing(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_in(workspace)
    sft.command(str(recipe), dry_run=True)
    assert "micro_batch_tokens = 8192" in capsys.readouterr().out
    assert not workspace.run.exists()
    with pytest.raises(DataError, match="no such file of samples"):
        sft.command(str(recipe), ["data.held_out=none.jsonl"], dry_run=True)
    with pytest.raises(RecipeError, match="held_out names no lines"):
        recipe.write_text(re.sub(", held_out = [^}]*", "", recipe.read_text()))
        sft.command(str(recipe), dry_run=True)


def test_the_command(workspace: Workspace, zeroth: Zeroth) -> None:
    recipe = recipe_in(workspace)
    assert_refused(zeroth("sft", recipe, f"base={workspace.folder / 'none'}"), "no such checkpoint")
    done = zeroth("sft", recipe)
    assert done.returncode == 0, done.stderr
    assert re.search(r"sft 6/6 +loss \d", done.stderr)
    assert done.stdout == ""


def test_without_transformers_the_remedy_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['transformers'] = None; from pathlib import Path; from model import hf; "
        "hf._loaded(Path('x'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "zeroth[hf]" in done.stderr
