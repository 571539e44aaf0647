from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.cli import main
from rl.journal import Journal
from tests.jobs.conftest import Workspace
from tests.model.published import DEEPSEEK_V3

PRETRAIN = """
run = { dir = "r" }
data = { documents = "absent.jsonl", vocab_size = 512 }
train = { steps = 9, batch_documents = 8, sequence_tokens = 64 }
optimizer = { lr = 1e-3 }
model = { n_routed_experts = 16, n_group = 4, topk_group = 2, num_experts_per_tok = 4 }
"""


def plan(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict[str, object], str]:
    with pytest.raises(SystemExit) as done:
        main(["plan", *map(str, arguments), "--json"])
    out, errors = capsys.readouterr()
    return int(done.value.code or 0), json.loads(out) if out else {}, errors


def of(value: object) -> dict[str, float]:
    assert isinstance(value, dict)
    return value


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "pretrain.toml"
    path.write_text(PRETRAIN)
    return path


def test_memory_and_time_are_summed_from_their_parts(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, result, _ = plan(capsys, recipe)
    assert status == 0
    assert result["trainer"] == "pretrain"
    parameters = sum(each["parameters"] for each in result["parameters"])  # type: ignore[attr-defined]
    assert of(result["bytes"])["moments"] == 8 * parameters
    assert of(plan(capsys, recipe, "optimizer.moments=bf16")[1]["bytes"])["moments"] == 4 * parameters
    assert result["bytes_a_device"] == sum(of(result["bytes"]).values())
    assert result["seconds_a_step"] == pytest.approx(sum(of(result["seconds"]).values()))
    assert of(result["work"])["trained"] == 8 * 64
    assert "commit" in result, "a plan that is kept says with what it was made"


def test_recomputing_keeps_less_and_takes_a_forward_pass_more(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, again = (plan(capsys, recipe, *more)[1] for more in ([], ["precision.recompute=true"]))
    assert of(again["bytes"])["activations: layers' inputs"] == 8 * 64 * 4 * 128 * 4
    assert float(str(again["bytes_a_device"])) < float(str(kept["bytes_a_device"]))
    ratio = of(again["seconds"])["forward and backward"] / of(kept["seconds"])["forward and backward"]
    assert ratio == pytest.approx(4 / 3)


def test_twice_the_devices_halve_products_and_half_the_efficiency_doubles_them(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = [
        of(plan(capsys, recipe, *more)[1]["seconds"])["forward and backward"]
        for more in ([], ["--devices", "2"], ["--efficiency", "0.2"])
    ]
    assert seconds[0] == pytest.approx(2 * seconds[1]) == pytest.approx(seconds[2] / 2)


def test_grpo_counts_a_prompt_once_for_its_group(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    status, result, errors = plan(capsys, workspace.recipe, "--prompt-tokens", "10", "--hardware", "h100")
    assert status == 0, errors
    assert result["trainer"] == "grpo"
    assert of(result["work"])["trained"] == 3 * 10 + 3 * 2 * 6
    assert {"prefill", "decoding", "publishing", "reference and start"} <= of(result["seconds"]).keys()
    assert of(result["bytes"])["reference, FP32"] > 0
    without = plan(capsys, workspace.recipe, "--prompt-tokens", "10", "loss.kl=0.0")[1]
    assert "reference, FP32" not in of(without["bytes"])


SUPERVISED = """
base = "{base}"
run = {{ dir = "r" }}
train = {{ steps = 9, batch_samples = 5, sequence_tokens = 64 }}
optimizer = {{ lr = 1e-3 }}
"""


@pytest.mark.parametrize(
    ("table", "trainer"),
    [
        ('data = {{ train = "t.jsonl" }}', "sft"),
        ('data = {{ train = "t.jsonl", held_out = "h.jsonl" }}', "reward-model"),
    ],
)
def test_supervised_training_is_planned_for_full_sequences(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], table: str, trainer: str
) -> None:
    workspace.recipe.write_text((SUPERVISED + table).format(base=workspace.base))
    status, result, errors = plan(capsys, workspace.recipe, "--trainer", trainer)
    assert status == 0, errors
    assert (result["trainer"], of(result["work"])["trained"]) == (trainer, 5 * 64)


def test_a_distillation_is_planned_as_its_students_training(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    student = SUPERVISED.format(base=workspace.base).replace("base", "[sft]\nbase", 1)
    workspace.recipe.write_text('teacher = "absent"\nproblems = "absent.jsonl"\n' + student)
    status, result, errors = plan(capsys, workspace.recipe)
    assert status == 0, errors
    assert (result["trainer"], of(result["work"])["trained"]) == ("distill", 5 * 64)


def test_a_chain_is_refused_with_what_to_plan_instead(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = plan(capsys, "chain")
    assert status == 2
    assert "each of its tables" in " ".join(errors.split())


def test_deepseek_v3_needs_more_than_a_hundred_gpus(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace.base / "config.json").write_text(json.dumps(DEEPSEEK_V3))
    _, result, _ = plan(capsys, workspace.recipe, "--hardware", "h200")
    assert result["devices_needed"] == pytest.approx(683e9 * (4 + 4 + 8 + 4 + 4 + 1) / 141e9, rel=0.05)


def test_this_machine_is_measured(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, result, _ = plan(capsys, recipe, "--hardware", "cpu")
    assert of(result["hardware"])["name"] == "this machine's CPU"
    assert 0 < float(str(result["seconds_a_step"])) < 100


def test_experts_are_placed_by_load_and_judged_by_what_came_later(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recipe.parent / "run"
    journal = Journal(run, keep=1)
    for step in range(1, 9):
        journal.expert_load(step, {1: [100 if e in (0, 8) else 10 + step % 2 for e in range(16)]})
    status, result, errors = plan(
        capsys, recipe, "--load", run, "--expert-gpus", "4", "--nodes", "2", "--redundant", "4"
    )
    assert status == 0, errors
    placed = of(result["placement"])
    assert placed["steps_judged_by"] == 4
    ways = of(placed["busiest_over_mean"])
    assert ways["in_order"] > 1.45
    assert ways["in_hindsight"] <= ways["planned"] < 1.15
    assert "the busiest takes" in " ".join(errors.split())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--hardware", "tpu"], "h100, h200, cpu"),
        (["--trainer", "dpo"], "grpo, sft, reward-model, pretrain, distill"),
        (["--load", "nowhere"], "no measured load"),
        (["train.step=3"], "train.steps"),
        (["model.hidden_sizes=3"], "hidden_size"),
    ],
)
def test_a_bad_call_is_refused(
    recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    status, result, errors = plan(capsys, recipe, *arguments)
    assert (status, result) == (2, {})
    assert word in " ".join(errors.split())
