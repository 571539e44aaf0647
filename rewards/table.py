"""Which reward a name means: one visible table, then entry points, dialect prefixes and ``module:object``.

A name is read in this order: the table below; the entry-point group ``zeroth.rewards``; a dialect prefix, which says
for which framework a function was written (``verl:file.py:compute_score``); any other ``module:object``. A dialect is
never guessed from a signature.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from rewards.errors import BadSetting, UnknownReward, raised
from rewards.guard import Guarded
from rewards.protocol import Reward

GROUP = "zeroth.rewards"

TABLE: Mapping[str, str] = {
    "math": "rewards.math_answer:MathReward",
    "code": "rewards.program:CodeReward",
    "format": "rewards.format:FormatReward",
    "boxed": "rewards.format:BoxedReward",
    "literal": "rewards.literal:LiteralReward",
    "language": "rewards.language:LanguageReward",
    "overlong": "rewards.shaping:OverlongReward",
    "length": "rewards.shaping:LengthReward",
    "repetition": "rewards.shaping:RepetitionReward",
    "learned": "rewards.learned:LearnedReward",
}


FORMS = ("module:object", "DIALECT:file.py:function")

DIALECTS = ("areal", "nemo-rl", "openrlhf", "skyrl", "slime", "trl", "verifiers", "verl")


def known_names() -> list[str]:
    """Every name that ``find`` knows without a colon."""
    return sorted({*TABLE, *(point.name for point in entry_points(group=GROUP))})


def find(name: str, **settings: Any) -> Reward:
    """The reward of this name, built with these settings.

    Raises UnknownReward for a name that means nothing, and BadSetting for a setting that the reward does not have;
    both carry ``exit_status`` 2.
    """
    if name in TABLE:
        reward: Reward = _build(name, _load(TABLE[name]), settings)
        return reward
    plugin = _entry_point(name)
    if plugin is not None:
        return _plugin(name, plugin.load, settings)
    prefix, colon, rest = name.partition(":")
    if colon and prefix in DIALECTS:
        from rewards.dialects import adapt

        adapted: Reward = _build(name, partial(adapt, prefix, rest), settings)
        return adapted
    if colon:
        return _plugin(name, lambda: _load(name), settings)
    raise UnknownReward(name, [*known_names(), *FORMS])


def check_problem(reward: Reward, problem: Mapping[str, Any]) -> None:
    """Raises BadProblem where the problem lacks what the reward needs; a reward without ``check`` needs nothing."""
    check = getattr(reward, "check", None)
    if check is not None:
        check(problem)


def _entry_point(name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=GROUP, name=name)), None)


def _load(path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    found = importlib.import_module(module_name)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _plugin(name: str, load: Callable[[], Any], settings: Mapping[str, Any]) -> Reward:
    try:
        loaded = load()
    except Exception as error:
        raise _unusable(name, error) from error
    timeout_s = settings.get("timeout_s", Guarded.DEFAULT_TIMEOUT_S)
    rest = {key: value for key, value in settings.items() if key != "timeout_s"}
    made = _build(name, loaded, rest) if callable(loaded) and (rest or _makes_reward(loaded)) else loaded
    if not callable(made):
        given = f"{made!r:.80} is given" if made is loaded else f"without arguments it gives {made!r:.80}"
        raise UnknownReward(name, reason=f"a reward is called with a list of samples, and {given}")
    return Guarded(name, made, timeout_s=timeout_s)


def _unusable(name: str, error: Exception) -> UnknownReward:
    """What keeps a plugin from being loaded, with the remedy."""
    module_name = name.partition(":")[0]
    if isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]:
        reason = f"there is no module {error.name!r} in the working directory or on the Python path"
        return UnknownReward(name, reason=reason)
    module = sys.modules.get(module_name)
    if isinstance(error, AttributeError) and module is not None and error.obj is module:
        names = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        return UnknownReward(name, sorted(names), reason=f"{module.__file__} defines no {error.name!r}")
    return UnknownReward(name, reason=raised(error))


def _makes_reward(loaded: Any) -> bool:
    """A class, or a function that needs no argument, makes the reward; anything else is the reward."""
    if inspect.isclass(loaded):
        return True
    try:
        inspect.signature(loaded).bind()
    except TypeError:
        return False
    return inspect.isroutine(loaded)


def _build(name: str, factory: Any, settings: Mapping[str, Any]) -> Any:
    try:
        inspect.signature(factory).bind(**settings)
    except TypeError as error:
        raise BadSetting(f"reward {name!r}: {error}; it takes {inspect.signature(factory)}") from error
    return factory(**settings)
