"""Trainer processes that hold the same weights and share a step: each runs its part of the batch, and gradients are
added up over all of them before each takes the same step. (Data parallelism; no weights are cut.)

Not torch's DistributedDataParallel: it hooks into every backward pass, and a step here has several, of which one
process may have more than another, or none.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.transport import Meeting, meet


class RanksError(RuntimeError):
    """The trainer processes do not come together, or one is gone."""

    exit_status = 1


class Alone:
    """The one trainer that there is."""

    rank, size = 0, 1

    def add_up(self, parameters: Iterable[nn.Parameter], counts: Tensor) -> None:
        """Gradients and ``counts`` become what they are over all processes, in each the same bits. A gradient that is
        None here and not elsewhere counts as zeros."""

    def sums(self, numbers: Sequence[float]) -> list[float]:
        return [*numbers]

    def largest(self, numbers: Sequence[float]) -> list[float]:
        return [*numbers]


class Ranks(Alone):
    """Process ``rank`` of those that meet. All make the same calls in the same order. Raises RanksError."""

    def __init__(
        self, meeting: Meeting, rank: int, device: torch.device, listener: socket.socket | None = None
    ) -> None:
        """``device``: of the weights. ``listener``: as for `model.transport.meet`."""
        self.rank, self.size, self.device = rank, meeting.size, device
        try:
            self.store, self.group = meet(meeting, rank, listener)
        except RuntimeError as error:
            raise RanksError(f"trainers did not meet at {meeting.host}:{meeting.port}: {error}") from None

    def add_up(self, parameters: Iterable[nn.Parameter], counts: Tensor) -> None:
        parameters = [*parameters]
        everywhere = self.largest([float(p.grad is not None) for p in parameters])
        gradients = []
        for p, there in zip(parameters, everywhere, strict=True):
            if there:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad.contiguous()
                gradients.append(p.grad)
        self._reduce([*gradients, counts], dist.ReduceOp.SUM)

    def sums(self, numbers: Sequence[float]) -> list[float]:
        return self._numbers(numbers, dist.ReduceOp.SUM)

    def largest(self, numbers: Sequence[float]) -> list[float]:
        return self._numbers(numbers, dist.ReduceOp.MAX)

    def _numbers(self, numbers: Sequence[float], how: Any) -> list[float]:
        found = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        self._reduce([found], how)
        return [float(number) for number in found.tolist()]

    def _reduce(self, tensors: Sequence[Tensor], how: Any) -> None:
        """In place. All are on their way before one is waited for."""
        options = dist.AllreduceOptions()
        options.reduceOp = how
        try:
            for work in [self.group.allreduce([tensor], options) for tensor in tensors]:
                work.wait()
        except RuntimeError as error:
            raise RanksError(
                f"trainer {self.rank} of {self.size} lost the others ({error}): continue the run with --resume"
            ) from None
