from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from jobs import config, reward_model
from jobs.config import RecipeError, RewardModelRecipe
from tests.jobs.conftest import Workspace, Zeroth

PAIRS: list[Mapping[str, object]] = [
    {"prompt": f"{i}+1", "chosen": f"{i + 1} yes", "rejected": f"{i + 1} no"} for i in range(24)
]
POINTS: list[Mapping[str, object]] = [
    {"prompt": f"{i}+1", "response": word, "label": label}
    for i in range(8)
    for word, label in (("yes", 1), ("no", 0.0))
]


def recipe_in(workspace: Workspace, lines: Sequence[Mapping[str, object]] = PAIRS) -> Path:
    for name, part in (("train", lines), ("held_out", lines[:16])):
        (workspace.folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part))
    recipe = workspace.folder / "reward.toml"
    recipe.write_text(
        f'base = "{workspace.base}"\nrun = {{ dir = "{workspace.folder / "rm"}", checkpoint_every = 4 }}\n'
        f'data = {{ train = "{workspace.folder}/train.jsonl", held_out = "{workspace.folder}/held_out.jsonl", '
        'template = "{prompt}=" }\ntrain = { steps = 8, batch_samples = 8 }\noptimizer = { lr = 1e-2 }\n'
    )
    return recipe


def read(recipe: Path, *overrides: str) -> RewardModelRecipe:
    return config.read(recipe, RewardModelRecipe, overrides)


@pytest.mark.parametrize(("lines", "kind"), [(PAIRS, "pairs"), (POINTS, "points")])
def test_it_learns_a_rule_and_its_folder_says_so(
    workspace: Workspace, lines: Sequence[Mapping[str, object]], kind: str
) -> None:
    folder = reward_model.train(read(recipe_in(workspace, lines), "train.steps=20"), resume=False)
    card = json.loads((folder / "reward.json").read_text())
    row = card["held_out"][kind]
    assert row["accuracy"] == 1.0
    assert row["interval"][0] > 0.75
    assert (card["template"], len(card["quantiles"])) == ("{prompt}=", 101)
    metrics = [json.loads(line) for line in (workspace.folder / "rm" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0][f"validation/{kind}_accuracy"] == 0.5
    assert metrics[-1][f"validation/{kind}_accuracy"] == 1.0


def test_a_margin_moves_the_loss(workspace: Workspace) -> None:
    wide = [{**pair, "margin": 3.0} for pair in PAIRS]
    with_margin = reward_model.checked(read(recipe_in(workspace, wide)), resume=False).train
    assert {each.margin for each in with_margin} == {3.0}


def test_it_resumes_to_the_same_weights_and_card(workspace: Workspace) -> None:
    recipe = read(recipe_in(workspace))
    folder = reward_model.train(recipe, resume=False)
    whole = {name: (folder / name).read_bytes() for name in ("model.safetensors", "score.safetensors", "reward.json")}
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert reward_model.train(recipe, resume=True) == folder
    assert {name: (folder / name).read_bytes() for name in whole} == whole


def test_every_checkpoints_card_is_of_its_own_weights(workspace: Workspace) -> None:
    from model.reward import RewardModel, card

    reward_model.train(read(recipe_in(workspace)), resume=False)
    for step in (4, 8):
        folder = workspace.folder / "rm" / "checkpoints" / f"step-{step}"
        texts = [(str(p["prompt"]), str(p[name])) for p in PAIRS[:16] for name in ("chosen", "rejected")]
        scores = [score for score in RewardModel(folder).scores(texts) if score is not None]
        assert card(folder).mean == pytest.approx(sum(scores) / len(scores), abs=1e-4)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"prompt": "1", "chosen": "2"}, "a preference is"),
        ({"prompt": "1", "response": "2", "label": 2}, '"label" is a number from 0 to 1, not 2'),
        ({"prompt": "1", "chosen": "2", "rejected": "3", "margin": -1}, '"margin"'),
        ({"chosen": "2", "rejected": "3"}, "a preference is"),
    ],
)
def test_a_malformed_line_is_named(workspace: Workspace, line: Mapping[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=rf"train.jsonl:25: .*{words}"):
        reward_model.checked(read(recipe_in(workspace, [*PAIRS, line])), resume=False)


def test_the_command_prints_where_the_model_lies(workspace: Workspace, zeroth: Zeroth) -> None:
    done = zeroth("reward-model", recipe_in(workspace))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).joinpath("reward.json").is_file()
    assert "95 % interval" in done.stderr


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("on_local")
def test_a_grpo_recipe_takes_it_alone_and_beside_a_rule(
    workspace: Workspace, zeroth: Zeroth, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward_model.train(read(recipe_in(workspace)), resume=False)
    problems = [{"id": str(i), "prompt": f"{i}+1", "answer": str(i + 1)} for i in range(8)]
    workspace.write_problems([{**p, "reward": "learned" if i % 2 else "math"} for i, p in enumerate(problems)])
    # Relative to the working directory, which is not that of Ray's workers.
    settings = 'reward.settings.learned.model="rm/checkpoints/step-8"'
    monkeypatch.chdir(workspace.folder)
    added = "reward.added={learned = 0.5}"
    done = zeroth("grpo", workspace.recipe, settings, added, "train.steps=2", "evaluate.every=0")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((workspace.run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"reward/learned", "reward/learned/raw", "reward/learned/capped", "reward/accuracy/raw"} <= set(metrics)
    assert metrics["not_judged"] == 0
