"""Rewards that are a plain function of one response: no worker, no network, nothing to close."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.protocol import Sample, Score


class Simple:
    """Scores each sample by its own ``score``; a subclass says how."""

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        return [self.score(sample) for sample in samples]

    async def close(self) -> None:
        """Nothing is held."""

    def score(self, sample: Sample) -> Score:
        raise NotImplementedError


def last_user_text(prompt: object) -> str:
    """The prompt as text: a string, or the contents of its messages, joined by newlines."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, (list, tuple)):
        return "\n".join(str(message.get("content", "")) for message in prompt if isinstance(message, dict))
    return ""
