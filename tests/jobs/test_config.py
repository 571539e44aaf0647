from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from jobs import config
from jobs.config import ChainRecipe, GrpoRecipe, PretrainRecipe, RecipeError, RunTable, Table
from model.config import Precision, from_recipe

GOOD = """
base = "b"
run = { dir = "r" }
data = { train = "t.jsonl" }
train = { steps = 3 }
optimizer = { lr = 1e-4 }
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "r.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("line", "key", "near"),
    [
        ("rollout = { samples_per_grup = 4 }", "rollout.samples_per_grup", "rollout.samples_per_group"),
        ("loss = { clip_hi = 0.3 }", "loss.clip_hi", "loss.clip_high"),
        ("reference = 3", "reference", ""),
        ("rollot = { lag = 1 }", "rollot", "rollout"),
        ("rewards = { added = {} }", "rewards", "reward"),
    ],
)
def test_an_unknown_key_names_file_key_and_nearest(tmp_path: Path, line: str, key: str, near: str) -> None:
    path = written(tmp_path, GOOD + line)
    with pytest.raises(RecipeError) as error:
        config.read(path, GrpoRecipe)
    assert str(path) in str(error.value)
    assert f"unknown key {key!r}" in str(error.value)
    assert "nearest known key" in str(error.value)
    assert not near or str(error.value).endswith(repr(near))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=0", "train.steps: .*greater than or equal to 1, not 0"),
        ("optimizer.lr=inf", "optimizer.lr: .*finite number"),
        ("reward.added.format=nan", "finite number"),
        ("optimizer.lr=fast", "optimizer.lr: .*number.*not 'fast'"),
        ("rollout.samples_per_group=1", "samples_per_group"),
        ("precision.train=fp4", "precision.train"),
        ("optimizer=3", "'optimizer' is a table"),
        ("nothing", "key=value"),
        (".=3", "key=value"),
        ("base.x=1", "'base' is a value"),
    ],
)
def test_a_bad_value_names_its_key(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        config.read(written(tmp_path, GOOD), GrpoRecipe, [override])


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'train' is missing"):
        config.read(written(tmp_path, GOOD.replace("train = { steps = 3 }", "")), GrpoRecipe)


def test_overrides_reach_their_place(tmp_path: Path) -> None:
    quoted = 'reward.settings."verl:f.py:g".timeout_s=2'
    assert config.read(written(tmp_path, GOOD), GrpoRecipe, [quoted]).reward.settings == {
        "verl:f.py:g": {"timeout_s": 2}
    }
    overrides = ["rollout.lag=0", "optimizer.lr=2e-5", "base=other", "reward.added.format=0.5"]
    recipe = config.read(written(tmp_path, GOOD), GrpoRecipe, overrides)
    assert (recipe.rollout.lag, recipe.optimizer.lr, str(recipe.base)) == (0, 2e-5, "other")
    assert recipe.reward.added == {"format": 0.5}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    recipe = config.read(written(tmp_path, GOOD), GrpoRecipe)
    settled = recipe.model_copy(update={"run": RunTable(dir=tmp_path)})
    config.settle(settled)
    assert config.read(tmp_path / "recipe.toml", GrpoRecipe) == settled


def test_an_absent_recipe_lists_those_that_are_shipped(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="quickstart"):
        config.read(tmp_path / "none.toml", GrpoRecipe)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        config.read(tmp_path, GrpoRecipe)


def test_broken_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="r.toml: not TOML"):
        config.read(written(tmp_path, "a = ["), GrpoRecipe)


@pytest.mark.parametrize("name", config.shipped())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    values = tomllib.loads(config.find(name).read_text())
    kind: type[Table] = PretrainRecipe
    if "rollout" in values:
        kind = GrpoRecipe
    elif "dir" in values:
        kind = ChainRecipe
    assert config.read(config.find(name), kind)


def test_a_job_does_not_write_its_run_into_rays_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(RecipeError, match=r"set run\.dir to an absolute path"):
        config.check_run(RunTable(dir=Path("runs/r")), resume=False)
    config.check_run(RunTable(dir=tmp_path / "r"), resume=False)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_the_gpu_quickstarts_model_has_the_sizes_that_kernels_take(precision: Precision) -> None:
    pytest.importorskip("triton", reason="needs Triton")
    from model.serving import unsupported

    shape = config.read(config.find("quickstart-gpu-pretrain"), PretrainRecipe)
    assert unsupported(from_recipe(shape.model, "[model]"), precision) is None
