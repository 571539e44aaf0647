"""The trainer as the pipeline sees it: it updates, publishes, saves and restores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from model.checkpoint import intact
from model.config import Precision
from model.moe import ExpertLoad
from model.parts import Part
from model.policy import Policy
from model.publish import USUAL, Published, PublishSettings
from rl.rollout import Group
from rl.step import Metrics, StepSettings, step


class Trainer(Protocol):
    """May be in another process. What `publish` returns is given to the engine as it is: weights, or a handle."""

    async def update(self, groups: Sequence[Group]) -> Metrics: ...

    async def expert_load(self) -> ExpertLoad:
        """That of the last update."""

    async def publish(self) -> Any:
        """The weights as they are. May be called beside the update that follows."""

    async def save(self, folder: Path) -> None:
        """Writes into an existing folder."""

    async def restore(self, folder: Path) -> None: ...


class LocalTrainer:
    """A trainer in this process. ``steps`` counts calls of `update`."""

    def __init__(
        self,
        policy: Policy,
        settings: StepSettings,
        rollout_precision: Precision,
        publish_settings: PublishSettings = USUAL,
    ) -> None:
        self.policy, self.settings, self.rollout_precision = policy, settings, rollout_precision
        self.publish_settings = publish_settings
        self.steps = 0

    async def update(self, groups: Sequence[Group]) -> Metrics:
        return self.update_now(groups)

    async def expert_load(self) -> ExpertLoad:
        return self.policy.take_load()

    async def publish(self) -> Any:
        return self.publish_now()

    async def save(self, folder: Path) -> None:
        self.policy.save(folder)
        (folder / "steps").write_text(str(self.steps))

    async def restore(self, folder: Path) -> None:
        self.policy.restore(folder)
        with intact(folder / "steps"):
            self.steps = int((folder / "steps").read_text())

    def publish_now(self, place: Callable[[Iterable[Part]], Iterable[Part]] = list) -> Published:
        """As `publish.publish`."""
        return self.policy.publish(self.rollout_precision, place, self.publish_settings)

    def update_now(self, groups: Sequence[Group]) -> Metrics:
        if self.settings.loss.kl > 0 and self.steps % self.settings.reference_every == 0:
            self.policy.replace_reference()
        self.steps += 1
        return step(self.policy, groups, self.settings)
