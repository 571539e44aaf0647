from __future__ import annotations

import json
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from jobs import chain, config, curriculum, working
from jobs.config import ChainRecipe, GrpoRecipe, PretrainRecipe, RecipeError, RewardModelRecipe, SftRecipe
from jobs.console import Interrupted
from jobs.files import FolderError
from rl.jsonl import write
from tests.jobs.conftest import Workspace

TEMPLATE = "User: {prompt}\nAssistant: <think>"


@pytest.fixture
def recipe(workspace: Workspace) -> Path:
    """A chain on a tiny base: SFT, a reward model and its evaluation."""
    folder = workspace.folder
    lines = [{"prompt": f"{i}+1", "response": f"{i + 1}"} for i in range(8)]
    write(folder / "sft.jsonl", lines)
    write(folder / "pairs.jsonl", [{"prompt": p["prompt"], "chosen": "yes", "rejected": "no"} for p in lines])
    common = {"train": {"steps": 2, "batch_samples": 4}, "optimizer": {"lr": 1e-3}}
    values = {
        "dir": str(folder / "chain"),
        "seed": 3,
        "sft": {
            **common,
            "base": str(workspace.base),
            "data": {"train": str(folder / "sft.jsonl"), "template": TEMPLATE},
        },
        "reward_model": {
            **common,
            "data": {
                "train": str(folder / "pairs.jsonl"),
                "held_out": str(folder / "pairs.jsonl"),
                "template": TEMPLATE,
            },
        },
        "eval": {"suites": [str(workspace.problems)], "template": TEMPLATE, "samples": 2, "max_tokens": 4},
    }
    path = folder / "chain.toml"
    path.write_text(tomli_w.dumps(values))
    return path


def test_what_a_stage_makes_goes_into_the_next() -> None:
    path = config.find("chain")
    recipe = config.read(path, ChainRecipe, ["dir=r", "seed=5"])
    made = {stage.name: stage for stage in chain.stages(recipe, str(path))}
    assert [type(stage.recipe) for stage in made.values()] == [
        PretrainRecipe, SftRecipe, RewardModelRecipe, GrpoRecipe
    ]  # fmt: skip
    assert made["sft"].recipe.base == made["pretrain"].made == Path("r/pretrain/checkpoints/step-1200")
    assert made["reward_model"].recipe.base == made["grpo"].recipe.base == made["sft"].made
    assert made["grpo"].recipe.reward.settings["learned"]["model"] == str(made["reward_model"].made)
    assert made["grpo"].recipe.reward.settings["learned"]["cap_quantile"] == 0.9
    assert {stage.recipe.run.seed for stage in made.values()} == {5}
    assert made["grpo"].settings == {"seed": 5, **recipe.grpo}


def test_it_runs_evaluates_and_does_nothing_twice(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = config.read(recipe, ChainRecipe)
    chain.run(resolved, str(recipe))
    result = json.loads((resolved.dir / "chain.json").read_text())
    assert set(result["checkpoints"]) == {"sft"}
    assert result["checkpoints"]["sft"]["problems"]["math"]["problems"] == 8
    assert result["reward_model"]["pairs"]["count"] == 8
    assert set(result["seconds"]) == {"sft", "reward_model", "eval", "all"}
    monkeypatch.setattr(chain, "trainer", lambda name: pytest.fail(f"{name} was trained again"))
    chain.run(resolved, str(recipe))


def test_an_interrupted_chain_goes_on_by_the_same_command(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl import supervised

    resolved, update = config.read(recipe, ChainRecipe), supervised.update

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return update(*arguments)

    monkeypatch.setattr(supervised, "update", interrupted)
    with pytest.raises(Interrupted, match="after step 1 of 2; everything is saved, the same command goes on"):
        chain.run(resolved, str(recipe))
    monkeypatch.undo()
    chain.run(resolved, str(recipe))
    assert (resolved.dir / "chain.json").exists()


def test_a_stage_that_was_gone_on_from_is_not_made_with_other_settings(recipe: Path) -> None:
    def run(*overrides: str) -> None:
        chain.run(config.read(recipe, ChainRecipe, overrides), str(recipe))

    run()
    made = (config.read(recipe, ChainRecipe).dir / "sft" / "recipe.toml").read_text()
    for other, told in (
        ("seed=4", r"stage sft .*\(seed: 3 then, 4 now\)"),
        ("sft.train.steps=3", r"train.steps: 2 then, 3 now"),
        ("reward_model.optimizer.lr=2e-3", "stage reward_model .*optimizer.lr: 0.001 then, 0.002 now"),
    ):
        with pytest.raises(FolderError, match=told):
            run(other)
    assert (config.read(recipe, ChainRecipe).dir / "sft" / "recipe.toml").read_text() == made
    run("reward_model.train.steps=3")


def test_a_wrong_key_names_its_stage(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"chain.toml \[sft\]: unknown key 'train.stepz'"):
        chain.stages(config.read(recipe, ChainRecipe, ["sft.train.stepz=3"]), str(recipe))
    with pytest.raises(RecipeError, match="files of different names"):
        chain.stages(config.read(recipe, ChainRecipe, ['eval.suites=["a/x.jsonl", "b/x.jsonl"]']), str(recipe))
    with pytest.raises(RecipeError, match="one of the tables pretrain"):
        chain.stages(ChainRecipe(dir=Path("x")), "empty.toml")


def test_a_dry_run_prints_every_stage(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain.command(str(recipe), ["sft.train.steps=7"], dry_run=True)
    printed = capsys.readouterr().out
    assert "# sft" in printed
    assert "steps = 7" in printed
    assert 'checkpoints/step-7"' in printed.partition("# reward_model")[2]


def test_every_file_of_the_chain_is_what_its_trainer_reads(tmp_path: Path) -> None:
    from jobs import pretrain, reward_model, sft
    from model.chat import Layout
    from rl.problems import load
    from tests.fakes import tiny_tokenizer

    folder = tmp_path / "files"
    working.write(folder, 0, TEMPLATE, 12)
    layout = Layout(tiny_tokenizer(), TEMPLATE)
    assert len(pretrain.documents(folder / "documents.jsonl")) == 12
    assert len(sft.dialogues(folder / "demonstrations-train.jsonl", layout, 1000)) > 200
    assert len(reward_model.preferences(folder / "preferences-held_out.jsonl", layout, 1000)) > 200
    sides = {name: load(folder / f"{name}.jsonl") for name in ("math", "learned", "answers", "working")}
    train, held_out = ({p.id.partition("-")[2] for p in sides[name]} for name in ("math", "answers"))
    assert not train & held_out


def test_the_preferred_response_shows_more_of_the_working() -> None:
    for line in islice(working.preferences(50, 0, held_out=True), 50):
        counts = [line[name].partition("</think>")[0].count("=") for name in ("chosen", "rejected")]
        assert counts[0] > counts[1]


def test_people_are_surer_of_larger_differences() -> None:
    agreed: dict[int, list[bool]] = {}
    for line in working.preferences(600, 0, held_out=False):
        chosen, rejected = (line[name].partition("</think>")[0].count("=") for name in ("chosen", "rejected"))
        agreed.setdefault(abs(chosen - rejected), []).append(chosen > rejected)
    shares = {gap: sum(each) / len(each) for gap, each in agreed.items()}
    assert 0.7 < shares[1] < 0.9 < shares[2]


@pytest.mark.parametrize(
    ("response", "worth"),
    [
        ("1+2=3,4+5=9</think>x", 1.0),
        ("4+5=9</think>1+2=3", 0.5),
        ("1+2=3,1+2=3,4+5=9</think>", 0.75),
        ("1+2=4,4+5=9</think>", 0.25),
        ("easy</think>", 0.0),
        ("8+8=16,8+8=16,8+8=16", -0.75),
    ],
)
def test_the_hidden_rule(response: str, worth: float) -> None:
    assert working.worth(response, ["1+2=3", "4+5=9"]) == worth


def test_demonstrations_are_right_and_differ_in_what_they_show() -> None:
    tasks = {task.question: task for task in islice(curriculum.tasks("math", 1, held_out=False), 200)}
    shares = set()
    for line in working.demonstrations(50, 0, held_out=False):
        task = tasks[line["prompt"]]
        shares.add(working.worth(line["response"], task.steps))
        assert f"\\boxed{{{task.truth['answer']}}}" in line["response"]
    assert {0.0, 0.5, 1.0} <= shares
