"""Rewards that cannot hang and cannot lie: a verdict is a number, or it is None with a reason.

``find`` gives a reward by name, ``mix`` adds several with weights. Importing this package is light: sympy, sandboxes
and services are imported by the worker or the file that needs them, when it first works.
"""

from rewards.errors import BadProblem, BadSetting, UnknownReward
from rewards.mix import mix
from rewards.protocol import Reward, Sample, Score
from rewards.table import check_problem, find, known_names

__all__ = [
    "BadProblem",
    "BadSetting",
    "Reward",
    "Sample",
    "Score",
    "UnknownReward",
    "check_problem",
    "find",
    "known_names",
    "mix",
]
