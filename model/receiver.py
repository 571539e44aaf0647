"""What takes new weights inside vLLM's worker processes: parts of a publish, through files in memory, one at a time.

The sender writes what the publish says of itself (``weights``), ``0.part``, ``1.part``, ... into a folder, and ``end``
behind the last; each worker says ``i.r.taken`` when it has loaded part i, and the sender then removes it. For a part
that lies in the trainer's memory the file says where. What the trainer found on the probe comes back as ``expected``:
the sender may not be able to open that memory, as it cannot in the trainer's own process. Files rather than calls, so
that one call of vLLM's own `reload_weights` takes all parts as one stream.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import layout
from model.config import ModelConfig, load
from model.parts import SCALE, Part
from model.probe import Probed, norms
from model.publish import Arriving, Published, PublishError
from model.transport import SharedPart

WEIGHTS = "weights"
EXPECTED = "expected"
PART_SECONDS = 600.0
"""How long a worker waits for the next part before it takes the sender for dead, and the sender for a worker."""


def write(what: Part | SharedPart | Published | Probed, path: Path) -> None:
    """A file that is there once it is whole."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        pickle.dump(what, file, protocol=pickle.HIGHEST_PROTOCOL)
    draft.rename(path)


def read(path: Path) -> Any:
    return pickle.loads(path.read_bytes())  # noqa: S301 - in a folder of this user alone


def parts_in(folder: Path, rank: int) -> Iterator[Part]:
    """The parts that a sender writes, in their order, as they come."""
    number = 0
    while (path := _next(folder, number)) is not None:
        yield read(path).opened()
        (folder / f"{number}.{rank}.taken").touch()
        number += 1


def _next(folder: Path, number: int) -> Path | None:
    waited, path = time.monotonic(), folder / f"{number}.part"
    while not path.exists():
        if (folder / "end").exists() and not path.exists():
            return None
        if time.monotonic() - waited > PART_SECONDS:
            raise PublishError(
                f"no part {number} of a publish within {PART_SECONDS:g} s: its sender has ended or hangs"
            )
        time.sleep(0.001)
    return path


def published_names(part: Part, c: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """A part's tensors as a checkpoint names and cuts them, scales included."""
    weights = {name: tensor for name, tensor in part.tensors.items() if not name.endswith(SCALE)}
    scales = {n.removesuffix(SCALE): tensor for n, tensor in part.tensors.items() if n.endswith(SCALE)}
    yield from layout.to_published(weights, c)
    for name, tensor in layout.to_published(scales, c):
        yield name + layout.SCALE, tensor


class WeightReceiver:
    """vLLM's ``worker_extension_cls``: its methods become the worker's."""

    repack = True
    rank: int
    model_runner: Any
    reload_weights: Any
    watched: list[list[float]]
    hooks: list[Any]

    def receive_weights(self, folder: str) -> str | None:
        """Loads the parts that are written into ``folder``. Returns what is wrong with them, None where all is as it
        was sent."""
        config = load(Path(self.model_runner.vllm_config.model_config.model))
        weights = replace(read(Path(folder) / WEIGHTS), parts=parts_in(Path(folder), self.rank))
        arriving = Arriving(weights)
        problem: str | None = None

        def stream() -> Iterator[tuple[str, Tensor]]:
            nonlocal problem
            try:
                for part in arriving:
                    if part.name != "mtp":  # vLLM samples without drafts, and has no place for MTP modules
                        yield from published_names(part, config)
            except PublishError as error:
                problem = str(error)

        self.reload_weights(weights_iterator=stream())
        if self.repack:
            self.pack_experts_again()
        if self.rank == 0 and arriving.expected is not None:
            write(arriving.expected, Path(folder) / EXPECTED)
        return problem

    def pack_experts_again(self) -> None:
        """vLLM 0.32 packs the experts of its CPU kernel when it loads a model and not when it reloads one, so that
        they then compute nonsense."""
        for layer in self.model_runner.get_model().modules():
            kernel = getattr(getattr(layer, "quant_method", None), "moe_kernel", None)
            experts = getattr(kernel, "fused_experts", None)
            if experts is not None and type(experts).__name__ == "CPUUnquantizedExperts":
                experts.process_weights_after_loading(layer)

    def set_packing(self, on: bool) -> None:
        """Off leaves vLLM as it is, so that what its fault does to a publish can be seen."""
        self.repack = on

    def watch_layers(self, on: bool) -> list[list[float]]:
        """Starts or ends watching the residual stream behind each layer; at the end returns its traces, where a
        captured graph has not run past the hooks."""
        if on:
            self.watched = []
            layers = self.model_runner.get_model().model.layers
            self.hooks = [layer.register_forward_hook(self._watch) for layer in layers]
            return []
        for hook in self.hooks:
            hook.remove()
        return self.watched

    def _watch(self, _: Any, __: Any, out: tuple[Tensor, Tensor]) -> None:
        self.watched.append(norms(torch.add(*out)).tolist())
