"""One adapter for each framework: how its reward functions are called, and what they answer.

Written from the public signatures (mid 2026); each is pinned by a conformance test. Problem fields reach a function
under the framework's own names; ``answer`` is the ground truth where the framework has no such field of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Answer = dict[str, Any]  # {"value": float | None, "parts": {name: float}, "detail": str}
Batch = Sequence[Mapping[str, Any]]  # [{"problem": {...}, "response": str}]
Adapter = Callable[[Any, Batch, Mapping[str, Any]], list[Answer]]


def verl(function: Any, batch: Batch, config: Mapping[str, Any]) -> list[Answer]:
    """``compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs) -> float | dict``."""
    answers = []
    for item in batch:
        problem = item["problem"]
        result = wait_for(
            function(
                data_source=problem.get("data_source", ""),
                solution_str=item["response"],
                ground_truth=truth(problem),
                extra_info=problem.get("extra_info", dict(problem)),
                **config,
            )
        )
        answers.append(scored_dict(result, "score"))
    return answers


def trl(function: Any, batch: Batch, config: Mapping[str, Any]) -> list[Answer]:
    """``f(prompts, completions, completion_ids=None, **columns) -> list[float | None]``."""
    problems = [item["problem"] for item in batch]
    extra: dict[str, list[Any]] = {}
    metrics: dict[str, float] = {}
    columns = {
        name: [problem.get(name) for problem in problems]
        for name in dict.fromkeys(name for problem in problems for name in problem)
        if name not in ("prompt", "completion_ids")
    }
    arguments: dict[str, Any] = {
        **columns,
        "prompts": [problem.get("prompt", "") for problem in problems],
        "completions": [
            as_completion(problem.get("prompt"), item["response"])
            for problem, item in zip(problems, batch, strict=True)
        ],
        "completion_ids": [problem.get("completion_ids", []) for problem in problems],
        "trainer_state": None,
        "log_extra": extra.__setitem__,
        "log_metric": metrics.__setitem__,
        **config,
    }
    values = listed(wait_for(function(**accepted(function, arguments))), len(batch))
    answers = [answer(value, {}, "left out by the function" if value is None else "") for value in values]
    for row, given in enumerate(answers):
        given["parts"] = {name: float(column[row]) for name, column in extra.items() if is_number(at(column, row))}
        given["parts"].update({name: float(value) for name, value in metrics.items() if is_number(value)})
    return answers


def openrlhf(function: Any, batch: Batch, config: Mapping[str, Any]) -> list[Answer]:
    """``reward_func(queries, prompts, labels) -> {"rewards": Tensor, "scores": Tensor, "extra_logs": {...}}``."""
    prompts = [as_text(item["problem"].get("prompt", "")) for item in batch]
    queries = [prompt + item["response"] for prompt, item in zip(prompts, batch, strict=True)]
    labels = [item["problem"].get("label", truth(item["problem"])) for item in batch]
    arguments = {"queries": queries, "prompts": prompts, "labels": labels, **config}
    result = wait_for(function(**accepted(function, arguments)))
    if not isinstance(result, Mapping) or "rewards" not in result:
        raise TypeError(f'it must return a dict with "rewards", not {shown(result)}')
    logs = {name: plain(values) for name, values in dict(result.get("extra_logs") or {}).items()}
    values = listed(result["rewards"], len(batch))
    return [
        answer(value, {name: float(at(column, row)) for name, column in logs.items() if is_number(at(column, row))})
        for row, value in enumerate(values)
    ]


def nemo_rl(environment: Any, batch: Batch, config: Mapping[str, Any]) -> list[Answer]:
    """An environment's ``step(message_log_batch, metadata) -> EnvironmentReturn(..., rewards, ...)``."""
    environment = made(environment, config)
    logs = []
    metadata = []
    for item in batch:
        problem = item["problem"]
        logs.append([*as_messages(problem.get("prompt", "")), {"role": "assistant", "content": item["response"]}])
        metadata.append({"ground_truth": truth(problem), **problem})
    result = wait_for(environment.step(logs, metadata))
    rewards = getattr(result, "rewards", None)
    if rewards is None:
        raise TypeError(f"step must return an EnvironmentReturn with rewards, not {shown(result)}")
    return [answer(value) for value in listed(rewards, len(batch))]


def verifiers(target: Any, batch: Batch, config: Mapping[str, Any]) -> list[Answer]:
    """A function of any of ``prompt, completion, answer, state, task, info``, or a Rubric of weighted functions."""
    answers = []
    target = target() if inspect.isclass(target) else target
    functions, weights = rubric_functions(target)
    for item in batch:
        problem = item["problem"]
        completion = as_completion(problem.get("prompt"), item["response"])
        arguments: dict[str, Any] = {
            "prompt": problem.get("prompt", ""),
            "completion": completion,
            "answer": truth(problem),
            "task": problem.get("task", "default"),
            "info": problem.get("info", dict(problem)),
            **getattr(target, "class_objects", {}),
            **config,
        }
        if getattr(target, "parser", None) is not None:
            arguments["parser"] = target.parser
        arguments["state"] = {**arguments, "timing": {}, "responses": [], "turn": 1, "trajectory": []}
        parts = {}
        total = 0.0
        for function, weight in zip(functions, weights, strict=True):
            value = number(wait_for(function(**accepted(function, arguments))))
            parts[getattr(function, "__name__", "reward")] = value
            total += weight * value
        answers.append(answer(total, parts if len(functions) > 1 else {}))
    return answers


def rubric_functions(target: Any) -> tuple[list[Any], list[float]]:
    """The functions and weights of a Rubric, under any of the names that its versions gave them."""
    if inspect.isroutine(target):
        return [target], [1.0]
    for getter in ("_get_reward_funcs", "get_reward_funcs"):
        if hasattr(target, getter):
            weights = getattr(target, getter.replace("funcs", "weights"))()
            return list(getattr(target, getter)()), [float(weight) for weight in weights]
    for functions, weights in (("funcs", "weights"), ("reward_funcs", "reward_weights")):
        if hasattr(target, functions) and hasattr(target, weights):
            return list(getattr(target, functions)), [float(weight) for weight in getattr(target, weights)]
    if callable(target):
        return [target], [1.0]
    raise TypeError(f"{shown(target)} is neither a function nor a Rubric")


def skyrl(environment: Any, batch: Batch, config: Mapping[str, Any]) -> list[Answer]:
    """``Env(env_config, extras)``, ``init(prompt)``, ``step(action) -> {"reward", "done", "metadata", ...}``."""
    answers = []
    for item in batch:
        problem = item["problem"]
        extras = {"reward_spec": {"method": "rule", "ground_truth": truth(problem)}, **problem}
        env = environment(env_config=types.SimpleNamespace(**config) if config else {}, extras=extras)
        wait_for(env.init(as_messages(problem.get("prompt", ""))))
        result = wait_for(env.step(item["response"]))
        reward = result["reward"] if isinstance(result, Mapping) else getattr(result, "reward", None)
        metadata = result.get("metadata") if isinstance(result, Mapping) else getattr(result, "metadata", None)
        parts = {name: float(value) for name, value in dict(metadata or {}).items() if is_number(value)}
        answers.append(answer(reward, parts))
        close = getattr(env, "close", None)
        if close is not None:
            wait_for(close())
    return answers


def slime(function: Any, batch: Batch, config: Mapping[str, Any]) -> list[Answer]:
    """``async custom_rm(args, sample) -> float``; the sample has ``prompt``, ``response``, ``label``, ``metadata``."""
    arguments = types.SimpleNamespace(**config)
    answers = []
    for index, item in enumerate(batch):
        problem = item["problem"]
        sample = types.SimpleNamespace(
            index=index,
            prompt=problem.get("prompt", ""),
            response=item["response"],
            label=problem.get("label", truth(problem)),
            metadata=problem.get("metadata", dict(problem)),
            tokens=problem.get("tokens", []),
            response_length=problem.get("response_tokens", 0),
            reward=None,
            status="completed",
        )
        answers.append(scored_dict(wait_for(function(arguments, sample)), config.get("reward_key", "score")))
    return answers


def areal(function: Any, batch: Batch, config: Mapping[str, Any]) -> list[Answer]:
    """``f(prompt, completions, prompt_ids, completion_ids, **row) -> float``."""
    answers = []
    for item in batch:
        problem = item["problem"]
        row = {name: value for name, value in problem.items() if name not in _AREAL}
        arguments = {
            "prompt": as_text(problem.get("prompt", "")),
            "completions": item["response"],
            "prompt_ids": problem.get("prompt_ids", []),
            "completion_ids": problem.get("completion_ids", []),
            **row,
            **config,
        }
        answers.append(answer(wait_for(function(**accepted(function, arguments)))))
    return answers


_AREAL = ("prompt", "completions", "prompt_ids", "completion_ids")

SIGNATURES: Mapping[str, Adapter] = {
    "areal": areal,
    "nemo-rl": nemo_rl,
    "openrlhf": openrlhf,
    "skyrl": skyrl,
    "slime": slime,
    "trl": trl,
    "verifiers": verifiers,
    "verl": verl,
}


# --- what the adapters share


def truth(problem: Mapping[str, Any]) -> Any:
    """The ground truth, under the name that the problem has it."""
    for field in ("reward_model", "reward_spec"):
        inner = problem.get(field)
        if isinstance(inner, Mapping) and "ground_truth" in inner:
            return inner["ground_truth"]
    return problem.get("ground_truth", problem.get("answer"))


def as_messages(prompt: Any) -> list[dict[str, Any]]:
    """The prompt as chat messages."""
    if isinstance(prompt, (list, tuple)):
        return [dict(message) for message in prompt]
    return [{"role": "user", "content": str(prompt)}]


def as_text(prompt: Any) -> str:
    """The prompt as one string."""
    if isinstance(prompt, (list, tuple)):
        return "\n".join(str(message.get("content", "")) for message in prompt)
    return str(prompt)


def as_completion(prompt: Any, response: str) -> Any:
    """The response in the prompt's form: a string, or a list of one assistant message."""
    return [{"role": "assistant", "content": response}] if isinstance(prompt, (list, tuple)) else response


def accepted(function: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the function takes by name; all of them where it takes ``**kwargs``."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return dict(arguments)
    return {parameter.name: arguments[parameter.name] for parameter in parameters if parameter.name in arguments}


def made(target: Any, config: Mapping[str, Any]) -> Any:
    """An environment from its class (a Ray actor class is opened), or the environment itself."""
    metadata = getattr(target, "__ray_metadata__", None)
    target = getattr(metadata, "modified_class", target)
    if not inspect.isclass(target):
        return target
    takes_config = [name for name in inspect.signature(target).parameters if name in ("cfg", "config", "env_config")]
    return target(**{takes_config[0]: dict(config)}) if takes_config else target()


_LOOP: list[asyncio.AbstractEventLoop] = []


def wait_for(value: Any) -> Any:
    """The value, awaited where it has to be, on one loop for the life of the worker."""
    if not inspect.isawaitable(value):
        return value
    if not _LOOP:
        _LOOP.append(asyncio.new_event_loop())

    async def awaited() -> Any:
        return await value

    return _LOOP[0].run_until_complete(awaited())


def scored_dict(result: Any, key: str) -> Answer:
    """A number, or a dict with the number under ``key`` and metrics under its other keys."""
    if not isinstance(result, Mapping):
        return answer(result)
    if key not in result:
        raise TypeError(f"the dict that it returned lacks {key!r}: {shown(dict(result))}")
    parts = {str(name): float(value) for name, value in result.items() if name != key and is_number(value)}
    return answer(result[key], parts)


def answer(value: Any, parts: Mapping[str, float] | None = None, detail: str = "") -> Answer:
    """One sample's answer; None, where a dialect allows it, leaves the sample out."""
    return {"value": None if value is None and detail else number(value), "parts": dict(parts or {}), "detail": detail}


def number(value: Any) -> float:
    """A float from a number, a NumPy scalar or a tensor of one element."""
    value = plain(value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not is_number(value):
        raise TypeError(f"it must return a number, not {shown(value)}")
    return float(value)


def is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and math.isfinite(value)


def listed(values: Any, count: int) -> list[Any]:
    """A list of ``count`` values from a list, a tuple or a tensor."""
    values = plain(values)
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"it must return {count} values, one for each sample, not {shown(values)}")
    if len(values) != count:
        raise TypeError(f"it must return {count} values, one for each sample, not {len(values)}")
    return list(values)


def plain(value: Any) -> Any:
    """A tensor or array as Python numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def at(column: Any, row: int) -> Any:
    return column[row] if isinstance(column, (list, tuple)) and row < len(column) else column


def shown(value: Any) -> str:
    return repr(value)[:100]
