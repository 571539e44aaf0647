"""lm-evaluation-harness with our engine and our rewards, beside its own Hugging Face model on the exported folder."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from jobs import harness
from jobs.config import RecipeError
from jobs.harness.lm import ZerothLM
from model.engine import Request, Sampling
from tests.jobs.conftest import Workspace, Zeroth

CHOICES = """
task: sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{prompt}}}}="
doc_to_choice: "{{{{[answer, wrong]}}}}"
doc_to_target: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
TEXTS = """
task: texts
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
  - metric: bits_per_byte
"""
BEGINNINGS = """
task: beginnings
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: generate_until
test_split: test
doc_to_text: "{{{{prompt}}}}="
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["7"], do_sample: false, max_gen_toks: 6}}
metric_list:
  - metric: !function zeroth_verifiers.math_equal
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A checkpoint, and three tasks over local data beside our verifiers."""
    place = Workspace(tmp_path_factory.mktemp("harness"))
    rows = [{"prompt": f"{i}+1", "answer": str(i + 1), "wrong": str(i), "text": f"one {i} two " * 30} for i in range(6)]
    data = place.folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = place.folder / "tasks"
    tasks.mkdir()
    for name, text in (("choices", CHOICES), ("texts", TEXTS), ("beginnings", BEGINNINGS)):
        (tasks / f"{name}.yaml").write_text(text.format(data=data))
    (tasks / "zeroth_verifiers.py").symlink_to(harness.TASKS / "zeroth_verifiers.py")
    return place


def evaluated(place: Workspace, model: Any, *tasks: str, **arguments: Any) -> dict[str, Any]:
    harness.register()
    done = lm_eval.simple_evaluate(
        model=model, tasks=list(tasks), model_args=arguments or None, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(place.folder / "tasks"), include_defaults=False),
    )  # fmt: skip
    samples: dict[str, list[Any]] = done["samples"]
    return {
        "results": done["results"],
        **{task: [one["filtered_resps"] for one in sorted(samples[task], key=lambda s: s["doc_id"])] for task in tasks},
    }


def test_it_agrees_with_the_harness_own_model_on_the_same_checkpoint(place: Workspace) -> None:
    """Choices, texts longer than the context, and greedy completions with a stop."""
    pytest.importorskip("transformers")
    tasks = ("sums", "texts", "beginnings")
    ours = evaluated(place, "zeroth", *tasks, pretrained=str(place.base))
    settings = {"dtype": "float32", "device": "cpu", "max_length": 95, "add_bos_token": False}
    theirs = evaluated(place, "hf", *tasks, pretrained=str(place.base), **settings)
    for mine, other in zip(ours["sums"], theirs["sums"], strict=True):
        for (logp, greedy), (wanted, wanted_greedy) in zip(mine, other, strict=True):
            assert logp == pytest.approx(wanted, abs=1e-3)
            assert bool(greedy) == bool(wanted_greedy)
    assert ours["results"]["sums"]["acc,none"] == theirs["results"]["sums"]["acc,none"]
    for mine, other in zip(ours["texts"], theirs["texts"], strict=True):
        assert mine[0] == pytest.approx(other[0], rel=2e-2)
    assert ours["beginnings"] == theirs["beginnings"]


def requests(kind: str, *arguments: Any) -> list[Instance]:
    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


@pytest.fixture(scope="module")
def model(place: Workspace) -> ZerothLM:
    return ZerothLM(str(place.base))


def test_a_text_longer_than_the_context_is_predicted_token_by_token_once(model: ZerothLM) -> None:
    text = "one 1 two " * 30
    (whole,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    ids = [model.prefix_token_id, *model.tok_encode(text)]
    from model.likelihood import likelihoods

    by_hand, size = 0.0, model.max_length - 1
    for start in range(1, len(ids), size):
        end = min(start + size, len(ids))
        window = ids[max(0, end - size - 1) : end]
        by_hand += sum(likelihoods(model.engine.model, [window])[0].logprobs[-(end - start) :])
    assert whole == pytest.approx(by_hand, abs=1e-2)


def test_completions_are_the_engines_and_end_before_a_stop(model: ZerothLM) -> None:
    asked = [("1+1=", {"until": [], "max_gen_toks": 9}), ("2+2=", {"until": [], "max_gen_toks": 4})]
    texts = model.generate_until(requests("generate_until", *asked))
    for (prompt, settings), text in zip(asked, texts, strict=True):
        request = Request(tuple(model.tok_encode(prompt)), (0,))
        assert text == model.engine.sample([request], Sampling(0.0, max_tokens=settings["max_gen_toks"]))[0][0].text
    stop = texts[0][1:3]
    (cut,) = model.generate_until(requests("generate_until", ("1+1=", {"until": [stop], "max_gen_toks": 9})))
    assert cut == texts[0][: texts[0].index(stop)]


def test_a_task_that_samples_gets_another_answer_for_each_request(model: ZerothLM) -> None:
    settings = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8, "until": []}
    first = model.generate_until(requests("generate_until", ("1", settings), ("1", settings)))
    assert first[0] != first[1]
    assert first == model.generate_until(requests("generate_until", ("1", settings), ("1", settings)))


def test_a_setting_that_the_engine_does_not_have_is_refused(model: ZerothLM) -> None:
    with pytest.raises(ValueError, match="repetition_penalty"):
        model.generate_until(requests("generate_until", ("1", {"repetition_penalty": 1.2})))


def test_a_model_without_a_checkpoint_is_told_what_is_missing() -> None:
    with pytest.raises(RecipeError, match="pretrained=FOLDER"):
        ZerothLM()


def test_chats_go_through_the_template(place: Workspace) -> None:
    model = ZerothLM(str(place.base))
    text = model.apply_chat_template([{"role": "user", "content": "1+1"}])
    assert text == "User: 1+1\nAssistant: "
    assert tuple(model.tok_encode(text)) == model.layout.prompt("1+1")


class Half(LM):  # type: ignore[misc]
    """Answers every other problem rightly, in another spelling."""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [f"\\boxed{{{request.doc['answer']}.{i % 2}}}" for i, request in enumerate(requests)]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def test_our_rewards_judge_a_task_of_the_harness() -> None:
    done = lm_eval.simple_evaluate(
        model=Half(), tasks=["zeroth_generated_math"], bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(harness.TASKS), include_defaults=False),
    )  # fmt: skip
    result = done["results"]["zeroth_generated_math"]
    assert (result["score,none"], result["not_judged,none"]) == (0.5, 0.0)


def test_the_command_runs_a_task(place: Workspace, zeroth: Zeroth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])  # which the command sets
    # Not of the harness's own tasks, in 14,000 files.
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
    out = place.folder / "out"
    model = ["--model", "zeroth", "--model_args", f"pretrained={place.base}", "--gen_kwargs", "max_gen_toks=8"]
    task = ["--tasks", "zeroth_generated_math", "--limit", "3", "--output_path", str(out)]
    done = zeroth("lm-eval", "run", *model, *task)
    assert done.returncode == 0, done.stderr
    (found,) = Path(out).rglob("results_*.json")
    assert json.loads(found.read_text())["results"]["zeroth_generated_math"]["not_judged,none"] == 0.0
