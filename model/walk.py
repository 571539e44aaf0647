"""The fixed prompt that proves a publish (`model.probe`), by the kernels of an engine on a GPU: in the engine, and in a
trainer, whose numbers are the same to the bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.config import ModelConfig, Precision
from model.kernels import stream
from model.kernels.invariant import Weight
from model.kernels.latent import PAGE, Places
from model.parts import Part
from model.probe import Probed, chosen, norms
from model.replayed import Recorder, Replayed, behind, beside, urgent_stream
from model.serving import Served, new_pool


class Walk:
    """A prompt on its way through the weights that an engine has, each of them as soon as it has come: on a stream of
    its own, so that a layer is walked through while the next one is on its way."""

    def __init__(self, served: Served, prompt: Sequence[int]) -> None:
        device = served.device
        pages, place = -(-len(prompt) // PAGE), torch.arange(len(prompt), dtype=torch.int32, device=device)
        table = torch.arange(pages, dtype=torch.int32, device=device).unsqueeze(0)
        self.served, self.prompt, self.tokens = served, tuple(prompt), torch.tensor(prompt, device=device)
        self.places, self.pool = Places(torch.zeros_like(place), place, table), new_pool(served, pages, layers=1)[0]
        self.steps: dict[str, Replayed] = {}
        self.recorder, self.stream = Recorder.on(device, urgent=True), urgent_stream(device)
        self.x = self.logprobs = torch.empty(0)
        self.traces: list[Tensor] = []

    @torch.no_grad()
    def through(self, part: Part) -> None:
        """Behind what has been launched so far. Parts come in order."""
        if part.name == "mtp":
            return
        if part.name not in self.steps:
            self.steps[part.name] = Replayed(lambda *_: self._step, self.recorder)
        x = self.tokens if part.name == "embed_tokens" else self.x
        with beside(self.stream):
            found = self.steps[part.name]((self._address(part), x.data_ptr()), part.name, part.tensors, x)
        if part.name == "head":
            self.logprobs = found[0]
            return
        self.x = found[0]
        self.traces = [*self.traces, *found[1:]] if len(found) > 1 else []

    def found(self) -> Probed:
        """After the last part."""
        behind(self.stream)
        return Probed(self.logprobs, torch.stack(self.traces))

    def _address(self, part: Part) -> int:
        """The engine's weights stay where they are."""
        return 0

    def _step(self, name: str, tensors: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
        """The stream's beginning; or the stream behind a layer, and its trace; or the log-probabilities."""
        served = self.served
        if name == "embed_tokens":
            return (served.embed(self.tokens),)
        if name == "head":
            return (chosen(served.logits(served.finish(x, None)[:-1]), self.tokens),)
        x = self._layer(int(name.removeprefix("layers.")), x)
        return x, norms(x)

    def _layer(self, i: int, x: Tensor) -> Tensor:
        served = self.served
        x, parts, _ = served.block(i, x, None, self.places, self.pool, served.counts()[i])
        return stream.add_norm(x, parts, served.layers[i].input_norm, served.c.rms_norm_eps)[0]


class Probe(Walk):
    """The same through the parts of a publish, which are all the weights there are."""

    def __init__(self, c: ModelConfig, precision: Precision, device: torch.device, prompt: tuple[int, ...]) -> None:
        super().__init__(Served(c, precision, device), prompt)

    def _address(self, part: Part) -> int:
        return part.piece.data_ptr()

    def _step(self, name: str, tensors: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
        served = self.served
        if name == "embed_tokens":
            return (tensors["embed_tokens.weight"].index_select(0, self.tokens).to(served.dtype),)
        if name == "head":
            served.norm, served.head = tensors["norm.weight"], Weight(tensors["lm_head.weight"].to(served.dtype))
            return super()._step(name, tensors, x)
        served.layers = [served.layer(tensors, name + ".")]
        x = self._layer(0, x)
        served.layers = []
        return x, norms(x)
