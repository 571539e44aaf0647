"""The fixed prompt that proves a publish (`model.probe`), by the kernels of an engine on a GPU: in a trainer, layer
after layer, and in an engine, all layers beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import torch
from torch import Tensor

from model.config import ModelConfig, Precision
from model.kernels import stream
from model.kernels.invariant import Weight
from model.kernels.latent import PAGE, Places
from model.parts import Part
from model.probe import chosen
from model.replayed import Recorder, Replayed, another_stream, behind, beside, current
from model.serving import Served, new_pool

AT_ONCE = 16
"""Layers that an engine's prompt walks through beside each other: a 3B model of 16 takes 0.36 ms on an H200 with 8, and
0.26 with 16; torch has 32 streams."""
TOGETHER = 6
"""Parts that a trainer's prompt goes through by one CUDA graph."""


class Prompt:
    """A prompt on its way through weights that are served. Its last token is what the others lead to, and does not
    walk. A single one that walks finds a latent in front of it that nobody left there, or it would attend to itself
    alone. There are ``pools`` for so many layers at once."""

    def __init__(self, served: Served, prompt: Sequence[int], pools: int) -> None:
        device, c, count = served.device, served.c, len(prompt) - 1
        alone = int(count == 1)
        pages, place = -(-count // PAGE), torch.arange(alone, alone + count, dtype=torch.int32, device=device)
        table = torch.arange(pages, dtype=torch.int32, device=device).unsqueeze(0)
        self.served, self.prompt, self.tokens = served, tuple(prompt), torch.tensor(prompt, device=device)
        self.places, self.pools = Places(torch.zeros_like(place), place, table), new_pool(served, pages, layers=pools)
        if alone:
            self.pools[:, 0, 0] = torch.arange(served.width, device=device) * 7919 % 65 / 32 - 1  # as BF16 has them
        layers = c.num_hidden_layers
        self.counts = torch.zeros(layers, served.choices, dtype=torch.int32, device=device)
        self.recorder, self.stream = Recorder.on(device), another_stream(device, urgent=False)

    def streams(self) -> Tensor:
        """Room for the residual stream of each token in front of and behind each layer, [layers + 1, n - 1, H]."""
        size = len(self.counts) + 1, len(self.prompt) - 1, self.served.c.hidden_size
        return torch.empty(size, dtype=self.served.dtype, device=self.served.device)

    def layer(self, i: int, own: int, pool: Tensor, x: Tensor, out: Tensor) -> None:
        """Through layer i, which is the ``own``-th that is served."""
        served = self.served
        x, parts, _ = served.block(own, x, None, self.places, pool, self.counts[i])
        stream.add_norm(x, parts, served.layers[own].input_norm, served.c.rms_norm_eps, total=out)

    def end(self, x: Tensor) -> Tensor:
        """The log-probabilities behind the last layer."""
        return chosen(self.served.logits(self.served.finish(x, None)), self.tokens)


class Walk(Prompt):
    """In an engine (`model.probe.Walking`): each layer is given what the trainer's prompt was in front of it, and has
    to make of it what the trainer's was behind it. So all are walked through at once, in the time of few: one after
    another is a row of some two hundred small kernels, each of which waits for memory."""

    def __init__(self, served: Served, prompt: Sequence[int]) -> None:
        super().__init__(served, prompt, pools=AT_ONCE)
        self.beside = [another_stream(served.device, urgent=False) for _ in range(AT_ONCE)]
        self.ours, self.theirs = self.streams(), self.streams()
        self.distances = torch.empty(len(self.ours), device=served.device)
        self.steps = Replayed(lambda: self._step, self.recorder)
        self.logprobs = torch.empty(0)

    @torch.no_grad()
    def against(self, theirs: Tensor) -> None:
        """Launches what compares the embedding and the layers with the trainer's stream. Raises KeyError naming a
        tensor of one that has not been taken."""
        self.served.complete(but="head")
        self.theirs.copy_(theirs)
        with beside(self.stream):
            self.steps(None)

    @torch.no_grad()
    def to_the_end(self) -> None:
        """Launches what comes behind the last layer, from where the trainer's prompt was."""
        self.logprobs = self.end(self.theirs[-1])

    def found(self) -> tuple[Tensor, Tensor]:
        """As `model.probe.Walking` has it."""
        behind(self.stream)
        return self.logprobs, self.distances

    def _step(self) -> tuple[Tensor, ...]:
        self.counts.zero_()
        sides = self.beside[: len(self.counts)]
        for i, pool, side in zip(range(len(self.counts)), cycle(self.pools), cycle(sides), strict=False):
            with beside(side):
                self.layer(i, i, pool, self.theirs[i], self.ours[i + 1])
        self.ours[0] = self.served.embed(self.tokens[:-1])
        for side in sides:
            behind(side)
        stream.distances(self.ours, self.theirs, self.distances)
        return ()


class Probe(Prompt):
    """In a trainer: through the parts of a publish, which are all the weights there are, each of them as soon as it has
    been made: on a stream of its own, so that a layer is walked through while the next one is made. It is kept from one
    publish to the next."""

    def __init__(self, c: ModelConfig, precision: Precision, device: torch.device, prompt: tuple[int, ...]) -> None:
        super().__init__(Served(c, precision, device), prompt, pools=1)
        self.residual = self.streams()
        self.steps: dict[str, Replayed] = {}
        self.made: dict[str, torch.cuda.Event] = {}

    def begun(self) -> Probing:
        return Probing(self)

    def note(self, part: Part) -> None:
        """That it has been launched."""
        if self.stream is None:
            return
        if part.name not in self.made:
            self.made[part.name] = torch.cuda.Event(external=True)
        self.made[part.name].record(current(self.stream.device_index))

    @torch.no_grad()
    def launch(self, parts: Sequence[Part]) -> tuple[Tensor, ...]:
        """The next ones, which have been noted, in order, each behind what makes it. Returns what there is behind the
        last."""
        first = parts[0].name
        if first not in self.steps:
            self.steps[first] = Replayed(lambda *_: self._through, self.recorder)
        with beside(self.stream, apart=True):
            return self.steps[first](tuple(part.piece.data_ptr() for part in parts), parts)

    def _through(self, parts: Sequence[Part]) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = ()
        for part in parts:
            if self.stream is not None:
                self.made[part.name].wait(current(self.stream.device_index))
            found = self._step(part)
        return found

    def _step(self, part: Part) -> tuple[Tensor, ...]:
        """Into a layer, or through it; or, behind the last, the log-probabilities."""
        served, tensors = self.served, part.tensors
        if part.name == "embed_tokens":
            self.counts.zero_()
            self.residual[0] = tensors["embed_tokens.weight"].index_select(0, self.tokens[:-1])
            return ()
        if part.name == "head":
            served.norm, served.head = tensors["norm.weight"], Weight(tensors["lm_head.weight"].to(served.dtype))
            return (self.end(self.residual[-1]),)
        i = int(part.name.removeprefix("layers."))
        served.layers = [served.layer(tensors, f"layers.{i}.")]
        self.layer(i, 0, self.pools[0], self.residual[i], self.residual[i + 1])
        served.layers = []
        return ()


class Probing:
    """One publish. It is launched some parts at a time, when the host is far ahead of the GPU, so that what makes parts
    goes first; and holds these, since it may come to one when whoever takes it is done with it."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.parts: list[Part] = []
        self.launched = 0

    def through(self, part: Part) -> None:
        """Parts come in order, each when it has been launched."""
        if part.name == "mtp":
            return
        self.probe.note(part)
        self.parts.append(part)
        if len(self.parts) - self.launched == TOGETHER and part.name != "head":
            self._launch(len(self.parts))

    def rows(self) -> Tensor:
        """After the head, `Probed`'s stream; it stays until the next prompt."""
        self._launch(len(self.parts) - 1)
        behind(self.probe.stream)
        return self.probe.residual

    def logprobs(self) -> Tensor:
        """After that, `Probed`'s; they stay until the next prompt."""
        (found,) = self.probe.launch(self.parts[-1:])
        behind(self.probe.stream)
        return found

    def _launch(self, end: int) -> None:
        if self.launched < end:
            self.probe.launch(self.parts[self.launched : end])
        self.launched = end
