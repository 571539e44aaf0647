"""Reward functions in the form that each framework documents, as its users write them."""

import asyncio
import time
from typing import NamedTuple


def verl_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    return 1.0 if ground_truth in solution_str and data_source == "my/data" and extra_info["index"] == 3 else 0.0


async def verl_async(data_source, solution_str, ground_truth, extra_info=None):
    await asyncio.sleep(0)
    return {"score": float(ground_truth == solution_str), "accuracy": True, "note": "text is no metric"}


def verl_without_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"acc": 1.0}


def verl_faulty(data_source, solution_str, ground_truth, extra_info=None):
    if solution_str == "raise":
        raise KeyError("no key")
    if solution_str == "hang":
        while True:
            pass
    if solution_str == "exit":
        raise SystemExit(3)
    if solution_str == "shape":
        return [1.0, 2.0]
    if solution_str == "nan":
        return float("nan")
    print("functions may print")
    return 0.5


def trl_length(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


def trl_columns(prompts, completions, completion_ids, answer, log_extra, log_metric, trainer_state, **kwargs):
    assert trainer_state is None
    assert len(completion_ids) == len(prompts)
    hits = [float(completion[0]["content"] == gold) for completion, gold in zip(completions, answer, strict=True)]
    log_extra("length", [len(completion[0]["content"]) for completion in completions])
    log_metric("hits", sum(hits))
    return hits


def trl_leaves_out(prompts, completions):
    return [None if completion == "?" else 1.0 for completion in completions]


async def trl_async(completions, **kwargs):
    await asyncio.sleep(0)
    return [0.25] * len(completions)


def trl_short(completions, **kwargs):
    return [1.0]


class FakeTensor:
    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values


def openrlhf_reward(queries, prompts, labels):
    rewards = FakeTensor(
        [float(query == prompt + label) for query, prompt, label in zip(queries, prompts, labels, strict=True)]
    )
    return {
        "rewards": rewards,
        "scores": rewards,
        "extra_logs": {"chars": FakeTensor([len(query) for query in queries])},
    }


def openrlhf_wrong(queries, prompts, labels):
    return [1.0 for _ in queries]


class EnvironmentReturn(NamedTuple):
    observations: list
    metadata: list
    next_stop_strings: list
    rewards: object
    terminateds: object
    answers: list | None


class NemoEnvironment:
    def __init__(self, cfg):
        self.bonus = cfg.get("bonus", 0.0)

    def step(self, message_log_batch, metadata):
        rewards = [
            float(log[-1]["content"] == meta["ground_truth"]) + self.bonus
            for log, meta in zip(message_log_batch, metadata, strict=True)
        ]
        assert all(log[0]["role"] == "user" and log[-1]["role"] == "assistant" for log in message_log_batch)
        return EnvironmentReturn([], metadata, [], FakeTensor(rewards), FakeTensor([True] * len(rewards)), None)


def verifiers_function(completion, answer):
    return float(completion == answer)


async def verifiers_state(prompt, completion, answer, state, task, info):
    return float(state["answer"] == answer and task == "default" and completion[-1]["role"] == "assistant")


class Rubric:
    def __init__(self, funcs, weights):
        self.funcs, self.weights = funcs, weights


def exact(completion, answer, **kwargs):
    return float(completion == answer)


def short(completion):
    return float(len(completion) < 5)


rubric = Rubric([exact, short], [1.0, 0.5])


class SkyEnvironment:
    def __init__(self, env_config, extras):
        self.truth = extras["reward_spec"]["ground_truth"]
        self.turns = 0

    def init(self, prompt):
        assert prompt[0]["role"] == "user"
        return prompt, {}

    def step(self, action):
        return {
            "observations": [],
            "reward": float(action == self.truth),
            "done": True,
            "metadata": {"length": len(action)},
        }


async def slime_rm(args, sample, **kwargs):
    await asyncio.sleep(0)
    return float(sample.response == sample.label) * args.scale


def areal_reward(prompt, completions, prompt_ids, completion_ids, answer, **kwargs):
    assert kwargs["level"] == 3
    return float(completions == answer)


def slow_start():
    time.sleep(600)
