"""Our side of a foreign reward function: jobs out, Scores in, and a failure reported with whose it is."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.errors import BadSetting, UnknownReward
from rewards.protocol import Sample, Score
from rewards.workers import Outcome, WorkerLimits, Workers

DIALECTS: Mapping[str, str] = {
    "areal": "each",
    "nemo-rl": "batch",
    "openrlhf": "batch",
    "skyrl": "each",
    "slime": "each",
    "trl": "batch",
    "verifiers": "each",
    "verl": "each",
}
"""Whether a dialect's function is given each sample on its own or the whole batch."""


def adapt(
    dialect: str,
    path: str,
    workers: int = 2,
    timeout_s: float = 60.0,
    memory_mb: int = 0,
    config: Mapping[str, Any] | None = None,
) -> DialectReward:
    """The reward that calls the function at ``path`` ("file.py:function" or "package.module:function").

    ``timeout_s`` seconds bound one call, ``memory_mb`` (0: unlimited) its memory; ``config`` reaches functions that
    take one (slime's ``args``, SkyRL's ``env_config``, a NeMo-RL environment's configuration). Raises UnknownReward
    where no such function can be there.
    """
    source, _, attribute = path.rpartition(":")
    name = f"{dialect}:{path}"
    if not source or not attribute:
        raise UnknownReward(name, reason=f"wants {dialect}:file.py:function")
    source = _locate(name, source, attribute)
    if timeout_s <= 0 or workers < 1:
        raise BadSetting(f"{name}: timeout_s and workers are positive")
    return DialectReward(dialect, source, attribute, workers, timeout_s, memory_mb, dict(config or {}))


def _locate(name: str, source: str, attribute: str) -> str:
    if not source.endswith(".py"):
        try:
            found = importlib.util.find_spec(source.partition(".")[0])  # a deeper look would run the package's code
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise UnknownReward(name, reason=f"there is no module {source!r} on the Python path")
        return source
    path = Path(source).expanduser().resolve()
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, SyntaxError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise UnknownReward(name, reason=f"{path} cannot be read: {what}") from error
    if attribute.partition(".")[0] not in _bound_names(tree):
        raise UnknownReward(name, sorted(_bound_names(tree)), reason=f"{path} defines no {attribute!r}")
    return str(path)


def _bound_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.split(".")[0])
    return names


class DialectReward:
    """Calls a function of another framework in killable workers."""

    def __init__(
        self,
        dialect: str,
        source: str,
        attribute: str,
        workers: int,
        timeout_s: float,
        memory_mb: int,
        config: Mapping[str, Any],
    ) -> None:
        self.dialect = dialect
        self.name = f"{dialect}:{source}:{attribute}"
        self.timeout_s = timeout_s
        self._target = [dialect, source, attribute, dict(config)]
        limits = WorkerLimits(wall_s=timeout_s, cpu_s=timeout_s * 4, memory_mb=memory_mb)
        self._workers = Workers("rewards.dialects.host:call", workers, limits, initial=tuple(self._target))

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        if not samples:
            return []
        if DIALECTS[self.dialect] == "batch":
            return await self._ask(samples)
        columns = await asyncio.gather(*(self._ask([sample]) for sample in samples))
        return [score for column in columns for score in column]

    async def close(self) -> None:
        await asyncio.to_thread(self._workers.close)

    async def _ask(self, samples: Sequence[Sample]) -> list[Score]:
        batch = [{"problem": dict(sample.problem), "response": sample.response} for sample in samples]
        try:
            outcome = await self._workers.ask(self._target, batch)
        except (TypeError, ValueError) as error:
            outcome = Outcome("error", detail=f"the problem is not JSON: {error}")
        if outcome.status != "ok":
            return [self._failed(sample, outcome) for sample in samples]
        return [self._score(sample, answer) for sample, answer in zip(samples, outcome.result, strict=True)]

    def _score(self, sample: Sample, answer: Mapping[str, Any]) -> Score:
        if answer["value"] is None:
            return Score(None, "error", answer["parts"], self._about(sample, answer["detail"]))
        return Score(answer["value"], "ok", answer["parts"], answer["detail"])

    def _failed(self, sample: Sample, outcome: Outcome) -> Score:
        if outcome.status == "timeout":
            what = f"no answer within timeout_s = {self.timeout_s:g} s, so it was killed; raise it or be faster"
            return Score(None, "timeout", detail=self._about(sample, what))
        return Score(
            None, "error", detail=self._about(sample, f"{outcome.detail}; fix the function or its problem's fields")
        )

    def _about(self, sample: Sample, what: str) -> str:
        return f"reward {self.name!r}, sample {sample.problem.get('id', '?')!r}: {what}"
