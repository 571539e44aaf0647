from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from jobs.bench import rollout
from jobs.bench.record import Log
from jobs.config import RecipeError
from model.drafting import DraftedWaves
from model.engine import Sampling
from tests.fakes import TINY
from tests.jobs.conftest import Zeroth, assert_refused
from tests.model.test_drafting import model

if TYPE_CHECKING:
    from model.vllm_engine import VllmEngine


def test_every_load_is_sampled_whole_with_drafts_and_without() -> None:
    subject = rollout.Subject("tiny", replace(TINY, num_nextn_predict_layers=1, eos_token_id=-1), None, None)
    loads = rollout._loads(subject, [2], prompt=4, new=8, long_tail=True)
    log = Log({})
    rollout.measure(subject, ["native-fp32"], loads, log)
    assert list(log.results["engines"]) == ["native, fp32", "native, fp32, drafts"]
    for engine in log.results["engines"].values():
        assert [engine["loads"][load.name]["tokens"] for load in loads] == [sum(load.lengths) for load in loads]
    assert log.results["without_vllm"] == "not asked for"


def test_a_run_that_is_ended_early_keeps_what_it_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subject = rollout.Subject("tiny", replace(TINY, eos_token_id=-1), None, None)
    loads = rollout._loads(subject, [2, 1], prompt=4, new=8, long_tail=False)
    timed = rollout._timed

    def ended(load: rollout.Load, *args: Any, **kwargs: Any) -> Any:
        if load.at_once == 1:
            raise KeyboardInterrupt
        return timed(load, *args, **kwargs)

    monkeypatch.setattr(rollout, "_timed", ended)
    with pytest.raises(KeyboardInterrupt):
        rollout.measure(subject, ["native-fp32"], loads, Log({}, tmp_path / "out.json"))
    kept = json.loads((tmp_path / "out.json").read_text())
    assert list(kept["engines"]["native, fp32"]["loads"]) == [loads[0].name]


class Running:
    """A vLLM that runs already, as `vllm.LLM`: what that is called with must make a configuration of vLLM's."""

    def __init__(self, engine: VllmEngine, **arguments: Any) -> None:
        from vllm import EngineArgs

        EngineArgs(**arguments).create_engine_config()
        self.engine = engine
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: None))

    def generate(self, prompts: Sequence[Any], settings: Sequence[Any], *, use_tqdm: bool) -> list[Any]:
        async def last(prompt: Any, wanted: Any) -> Any:
            return [out async for out in self.engine.llm.generate(prompt, wanted, next(self.engine.names))][-1]

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*map(last, prompts, settings))

        return asyncio.run_coroutine_threadsafe(all_of_them(), self.engine.loop).result()


@pytest.mark.vllm
def test_vllm_samples_every_load_whole_beside_the_native_engine(
    monkeypatch: pytest.MonkeyPatch, zeroth: Zeroth, vllm_engine: VllmEngine, tmp_path: Path
) -> None:
    monkeypatch.setattr("vllm.LLM", partial(Running, vllm_engine))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(rollout.SHAPES, "tiny", {**rollout.SHAPES["tiny"], "vocab_size": TINY.vocab_size})
    sizes = ["--shape", "tiny", "--sequences", "3,2", "--prompt-tokens", "8", "--new-tokens", "12"]
    run = zeroth("bench", "rollout", *sizes, "--engines", "vllm,native-fp32", "--json")
    assert run.returncode == 0, run.stderr
    engines = json.loads(run.stdout)["engines"]
    assert list(engines) == ["vLLM, fp32", "native, fp32"]
    theirs, ours = ([figures["tokens"] for figures in engine["loads"].values()] for engine in engines.values())
    assert theirs == ours
    assert theirs[:2] == [36, 24]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a machine without a CUDA device")
def test_vllm_in_fp8_is_refused_without_a_gpu() -> None:
    with pytest.raises(RecipeError, match="vllm-fp8 needs a CUDA device"):
        rollout.measure(rollout.Subject("tiny", TINY, None, None), ["vllm-fp8"], [], Log({}))


def test_graphs_are_recorded_of_the_loads_own_sizes() -> None:
    sizes = [rollout.Load("", [], [], rows) for rows in (80, 24)]
    assert rollout._graphs(sizes) == {"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 24, 32, 64, 80]}


def test_guesses_are_counted_in_the_run_that_is_timed() -> None:
    made = model(agreeing=True)
    made.c = replace(made.c, eos_token_id=-1)
    load = rollout.Load("few", [(5, 6, 7), (9,)], [40, 20], 2)
    engine = DraftedWaves(made, 2, False)
    figures, sampled = rollout._timed(load, engine, draft=True)
    again = engine.sample(rollout._starts(load, None), Sampling())
    assert [row.tokens for row in sampled] == [row.tokens for row in again]
    assert figures["accepted"] == 60 / engine.tally.row_steps - 1 > 0.3


def test_a_context_that_is_too_short_is_refused() -> None:
    subject = rollout.Subject("tiny", TINY, None, None)
    with pytest.raises(RecipeError, match="context of 96"):
        rollout._loads(subject, [2], prompt=90, new=8, long_tail=False)


@pytest.mark.parametrize("bench", ["rollout", "gap"])
@pytest.mark.parametrize(("gpu", "shape"), [(True, "3b"), (False, "tiny")])
def test_the_shape_is_one_that_the_machine_can_sample(
    bench: str, gpu: bool, shape: str, monkeypatch: pytest.MonkeyPatch, zeroth: Zeroth
) -> None:
    measured: list[str] = []

    def measure(subject: rollout.Subject, *_: object) -> None:
        measured.append(subject.name)
        raise RecipeError("enough")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(f"jobs.bench.{bench}.measure", measure)
    zeroth("bench", bench)
    assert measured == [shape]


@pytest.mark.parametrize("sizes", ["4,a", "0", "4,"])
def test_batch_sizes_that_are_none_are_refused(sizes: str, zeroth: Zeroth) -> None:
    assert_refused(zeroth("bench", "rollout", "--sequences", sizes), "--sequences")
