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
from model.replayed import Recorder, Replayed, another_stream, behind, beside
from model.serving import Served, new_pool


class Walk:
    """A prompt on its way through the weights that an engine has, each of them as soon as it has come: on a stream of
    its own, so that a layer is walked through while the next one is on its way. Its last token is what the others lead
    to, and does not walk. A single one that walks finds a latent in front of it that nobody left there, or it would
    attend to itself alone. ``residual`` [layers + 1, n - 1, H] is the residual stream in front of and behind each
    layer. What lies between two layers stays in its place, so that nothing has to be copied there."""

    def __init__(self, served: Served, prompt: Sequence[int]) -> None:
        device, c, count = served.device, served.c, len(prompt) - 1
        alone = int(count == 1)
        pages, place = -(-count // PAGE), torch.arange(alone, alone + count, dtype=torch.int32, device=device)
        table = torch.arange(pages, dtype=torch.int32, device=device).unsqueeze(0)
        self.served, self.prompt, self.tokens = served, tuple(prompt), torch.tensor(prompt, device=device)
        self.places, self.pool = Places(torch.zeros_like(place), place, table), new_pool(served, pages, layers=1)[0]
        if alone:
            self.pool[0, 0] = torch.arange(served.width, device=device) * 7919 % 65 / 32 - 1  # as BF16 has them
        layers = c.num_hidden_layers
        self.residual = torch.empty(layers + 1, count, c.hidden_size, dtype=served.dtype, device=device)
        self.traces = torch.empty(layers, count, device=device)
        self.counts = torch.zeros(layers, served.choices, dtype=torch.int32, device=device)
        self.steps: dict[str, Replayed] = {}
        self.recorder, self.stream = Recorder.on(device, urgent=False), another_stream(device, urgent=False)
        self.end: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def through(self, part: Part) -> None:
        """Behind what has been launched so far. Parts come in order."""
        if part.name == "mtp":
            return
        if part.name not in self.steps:
            self.steps[part.name] = Replayed(lambda *_: self._step, self.recorder)
        with beside(self.stream):
            self.end = self.steps[part.name](self._address(part), part)

    def found(self) -> Probed:
        """After the last part."""
        behind(self.stream)
        return Probed(*self.end)

    def _address(self, part: Part) -> int:
        """The engine's weights stay where they are."""
        return 0

    def _step(self, part: Part) -> tuple[Tensor, ...]:
        """Into a layer, or through it; or, behind the last, the log-probabilities and the traces."""
        if part.name == "embed_tokens":
            self.counts.zero_()
            self.residual[0] = self._embedded(part.tensors)
            return ()
        if part.name == "head":
            return self._found(part.tensors)
        self._layer(int(part.name.removeprefix("layers.")), part.tensors)
        return ()

    def _embedded(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return self.served.embed(self.tokens[:-1])

    def _layer(self, i: int, tensors: Mapping[str, Tensor]) -> None:
        self._block(i, i)

    def _block(self, i: int, own: int) -> None:
        """Through layer i, which is the engine's ``own``."""
        served = self.served
        x, parts, _ = served.block(own, self.residual[i], None, self.places, self.pool, self.counts[i])
        norm = served.layers[own].input_norm
        stream.add_norm(x, parts, norm, served.c.rms_norm_eps, total=self.residual[i + 1])
        if i + 1 == len(self.traces):  # rather than behind the head, for which an engine waits
            self.traces.copy_(norms(self.residual[1:]))

    def _found(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        served = self.served
        return chosen(served.logits(served.finish(self.residual[-1], None)), self.tokens), self.traces


class Probe(Walk):
    """The same through the parts of a publish, which are all the weights there are."""

    def __init__(self, c: ModelConfig, precision: Precision, device: torch.device, prompt: tuple[int, ...]) -> None:
        super().__init__(Served(c, precision, device), prompt)

    def _address(self, part: Part) -> int:
        return part.piece.data_ptr()

    def _embedded(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return tensors["embed_tokens.weight"].index_select(0, self.tokens[:-1])

    def _layer(self, i: int, tensors: Mapping[str, Tensor]) -> None:
        self.served.layers = [self.served.layer(tensors, f"layers.{i}.")]
        self._block(i, 0)
        self.served.layers = []

    def _found(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        served = self.served
        served.norm, served.head = tensors["norm.weight"], Weight(tensors["lm_head.weight"].to(served.dtype))
        return super()._found(tensors)
