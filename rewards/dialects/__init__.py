"""Reward functions written for other frameworks, unchanged.

``verl:file.py:compute_score`` or ``trl:package.module:function``: the prefix says for which framework the function was
written; nothing is guessed from its signature. The function is loaded and called in worker processes of its own, so
that one that hangs is killed and one that crashes takes nothing with it. ``signatures`` holds one adapter a dialect.
"""

from rewards.dialects.reward import DialectReward, adapt

__all__ = ["DialectReward", "adapt"]
