"""Every key of a recipe reaches the part that it names."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import config, grpo, parts
from jobs.config import GrpoRecipe, RecipeError
from model import checkpoint
from model.engine import EngineError
from model.native import NativeEngine
from model.policy import PolicyError
from tests.fakes import TINY
from tests.jobs.conftest import Workspace

OTHER: dict[str, Any] = {
    "run.seed": 7,
    "run.checkpoint_every": 9,
    "train.steps": 99,
    "train.minibatches": 3,
    "train.micro_batch_tokens": 77,
    "optimizer.lr": 0.5,
    "optimizer.warmup_steps": 3,
    "optimizer.decay_steps": 50,
    "optimizer.lr_floor": 0.7,
    "optimizer.weight_decay": 0.3,
    "optimizer.beta2": 0.5,
    "optimizer.clip_norm": 0.2,
    "optimizer.bias_speed": 0.25,
    "optimizer.moments": "bf16",
    "rollout.groups_per_step": 5,
    "rollout.samples_per_group": 4,
    "rollout.lag": 4,
    "rollout.routes": "replay",
    "rollout.temperature": 0.5,
    "rollout.top_p": 0.5,
    "rollout.max_tokens": 3,
    "rollout.step_tokens": 2,
    "rollout.stop": ["x"],
    "rollout.dynamic_sampling": True,
    "rollout.max_dropped_groups": 3,
    "reward.settings": {"math": {"timeout_s": 2.0}},
    "data.template": "{prompt}|",
    "loss.clip_low": 0.1,
    "loss.clip_high": 0.9,
    "loss.kl": 0.7,
    "loss.importance": "sequence",
    "loss.importance_cap": 5.0,
    "loss.importance_floor": 0.5,
    "loss.importance_mask": True,
    "loss.aggregation": "sequence",
    "loss.advantage_by_std": False,
    "loss.mask_truncated": True,
    "loss.balance": 0.5,
    "loss.reference_every": 2,
    "evaluate.every": 3,
}
ELSEWHERE = {
    "base", "run.dir", "run.keep_checkpoints", "run.trackers", "data.train", "data.held_out", "reward.added",
    "evaluate.problems", "evaluate.samples", "precision.train", "precision.recompute", "precision.rollout",
    "precision.exact", "rollout.max_rows", "rollout.draft", "cluster.address", "cluster.rollout_workers",
    "cluster.reward_workers", "cluster.trainers",
    "cluster.trainer_threads", "cluster.rollout_threads", "cluster.gpus_per_rollout_worker", "cluster.gpus_per_trainer",
    "cluster.transport", "cluster.publish_timeout_s",
    "rollout.engine", "rollout.vllm", "rollout.on_publish",
}  # fmt: skip
"""Used where the run is put together, and tested with it."""


def recipe(folder: Path, **overrides: Any) -> GrpoRecipe:
    values: dict[str, Any] = {
        "base": "b",
        "run": {"dir": str(folder)},
        "data": {"train": "t"},
        "train": {"steps": 1},
        "optimizer": {"lr": 1.0},
    }
    for key, value in overrides.items():
        table, name = key.split(".")
        values.setdefault(table, {})[name] = value
    return config.build(values, GrpoRecipe, "test")


def built(made: GrpoRecipe) -> tuple[Any, ...]:
    return (
        parts.step_settings(made),
        parts.rollout_settings(made),
        parts.pipeline_settings(made),
        parts.optimizer_settings(made.optimizer),
        parts.reward_settings(made),
    )


@pytest.mark.parametrize("key", OTHER)
def test_a_key_moves_the_part_it_names(tmp_path: Path, key: str) -> None:
    assert built(recipe(tmp_path, **{key: OTHER[key]})) != built(recipe(tmp_path))


def test_no_key_is_without_a_test() -> None:
    assert set(config.keys(GrpoRecipe)) == set(OTHER) | ELSEWHERE


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_the_precisions_reach_policy_and_publish(workspace: Workspace, precision: str) -> None:
    overrides = [f"precision.train={precision}", f"precision.rollout={precision}"]
    trainer = parts.make_trainer(config.read(workspace.recipe, GrpoRecipe, overrides))
    fp8 = [layer.fp8 for layer in trainer.policy.model.modules() if hasattr(layer, "fp8")]
    assert set(fp8) == {precision == "fp8"}
    assert str(trainer.policy.model.dtype) == {"bf16": "torch.bfloat16"}.get(precision, "torch.float32")
    assert trainer.policy.publish(trainer.rollout_precision).precision == precision


def test_publishes_are_proven_with_the_first_problems(workspace: Workspace) -> None:
    recipe = config.read(workspace.recipe, GrpoRecipe)
    text = grpo.checked(recipe, resume=False).text
    probe = asyncio.run(parts.make_trainer(recipe, text).publish()).probe
    tokenizer = checkpoint.shape(workspace.base)[1]
    assert tokenizer.decode(probe).startswith("0+1=1+1=")


def test_recomputation_reaches_the_model(workspace: Workspace) -> None:
    for value in (False, True):
        made = config.read(workspace.recipe, GrpoRecipe, [f"precision.recompute={str(value).lower()}"])
        assert parts.make_trainer(made).policy.model.recompute is value


def test_the_engine_takes_its_rows(workspace: Workspace) -> None:
    assert parts.make_engine(workspace.base, max_rows=3, threads=1).max_rows == 3


def test_the_native_engine_records_routes_when_they_are_wanted(workspace: Workspace) -> None:
    for routes, wanted in (("off", False), ("record", True), ("replay", True)):
        recipe = config.read(workspace.recipe, GrpoRecipe, [f"rollout.routes={routes}"])
        engine = parts.rollout_engine(recipe)
        assert isinstance(engine, NativeEngine)
        assert engine.record_routes == wanted


@pytest.mark.vllm
def test_vllm_is_made_as_the_recipe_says(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm_engine = pytest.importorskip("model.vllm_engine", reason="needs vLLM")
    made: dict[str, Any] = {}
    monkeypatch.setattr(vllm_engine, "VllmEngine", lambda *args, **named: made.update(named))
    overrides = ["engine=vllm", "on_publish=mixed", "top_p=0.9", "vllm.seed=3", "routes=record"]
    parts.rollout_engine(config.read(workspace.recipe, GrpoRecipe, [f"rollout.{one}" for one in overrides]))
    assert made == {
        "max_rows": 512, "on_publish": "mixed", "before_top_p": True, "record_routes": True, "arguments": {"seed": 3}
    }  # fmt: skip


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["precision.rollout=fp8"], "vLLM computes FP8 on GPUs"),
        (["rollout.top_p=0.9", "rollout.temperature=0.7"], "rollout.engine to native"),
        (["rollout.routes=record"], "rollout.routes"),
        (["rollout.vllm.max_num_seq=3"], "max_num_seqs"),
    ],
)
def test_what_vllm_cannot_do_is_refused_before_the_run(
    workspace: Workspace, overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm", reason="needs vLLM")
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    recipe = config.read(workspace.recipe, GrpoRecipe, ["rollout.engine=vllm", "precision.rollout=bf16", *overrides])
    with pytest.raises((RecipeError, EngineError), match=message):
        parts.check_engine(recipe, TINY)


def test_arguments_for_vllm_need_vllm(workspace: Workspace) -> None:
    with pytest.raises(RecipeError, match="rollout.vllm"):
        parts.check_engine(config.read(workspace.recipe, GrpoRecipe, ["rollout.vllm.seed=3"]), TINY)


def test_drafts_of_a_model_without_an_mtp_module_are_refused_before_the_run(workspace: Workspace) -> None:
    with pytest.raises(RecipeError, match="no MTP module"):
        parts.check_engine(config.read(workspace.recipe, GrpoRecipe, ["rollout.draft=true"]), TINY)


def test_the_engine_drafts_where_the_model_can(workspace: Workspace) -> None:
    with pytest.raises(EngineError, match="num_nextn_predict_layers is 0"):
        parts.make_engine(workspace.base, max_rows=3, threads=1, draft=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can")
def test_exact_log_probabilities_are_refused_where_there_is_no_gpu(workspace: Workspace) -> None:
    made = config.read(workspace.recipe, GrpoRecipe, ["precision.exact=true"])
    with pytest.raises(PolicyError, match="there is no CUDA device"):
        parts.make_trainer(made)


def test_evaluation_looks_at_so_many_problems(workspace: Workspace) -> None:
    found = parts.load_problems(config.read(workspace.recipe, GrpoRecipe, ["evaluate.problems=2"]))
    assert (len(found.train), len(found.held_out)) == (8, 2)
