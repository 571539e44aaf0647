"""The fixed prompt that proves a publish (`model.probe`), by the kernels of an engine on a GPU: in a trainer, layer
after layer, and in an engine, all layers beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

from model.config import ModelConfig, Precision
from model.kernels import stream
from model.kernels.invariant import Weight
from model.kernels.latent import PAGE, Places
from model.parts import Part
from model.probe import Against, chosen, distances
from model.replayed import Recorder, Replayed, another_stream, behind, beside
from model.serving import Served, new_pool

AT_ONCE = 16
"""Layers that an engine's prompt walks through beside each other: a 3B model of 16 takes 0.36 ms on an H200 with 8, and
0.26 with 16; torch has 32 streams."""


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
        self.recorder, self.stream = Recorder.on(device, urgent=False), another_stream(device, urgent=False)

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
    """In an engine that has all weights: each layer is given what the trainer's prompt was in front of it, and has to
    make of it what the trainer's was behind it. So all are walked through at once, in the time of few: one after
    another is a row of some two hundred small kernels, each of which waits for memory."""

    def __init__(self, served: Served, prompt: Sequence[int]) -> None:
        super().__init__(served, prompt, pools=AT_ONCE)
        self.beside = [another_stream(served.device, urgent=False) for _ in range(AT_ONCE)]
        self.theirs, self.ours = self.streams(), self.streams()
        self.steps = Replayed(lambda: self._step, self.recorder)

    @torch.no_grad()
    def against(self, theirs: Tensor) -> Against:
        """Launches what compares this engine with the trainer's stream [layers + 1, n - 1, H]."""
        with beside(self.stream):
            self.theirs.copy_(theirs)
            found = self.steps(None)
        return partial(self._found, *found)

    def _found(self, logprobs: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        behind(self.stream)
        return logprobs, distances

    def _step(self) -> tuple[Tensor, ...]:
        """The longest come first."""
        self.counts.zero_()
        logprobs: list[Tensor] = []
        ways: list[Callable[[Tensor], object]] = [lambda _: logprobs.append(self.end(self.theirs[-1]))]
        ways += [partial(self._through, i) for i in range(len(self.counts))]
        ways += [lambda _: self.ours[0].copy_(self.served.embed(self.tokens[:-1]))]
        for way, pool, side in zip(ways, cycle(self.pools), cycle(self.beside), strict=False):
            with beside(side):
                way(pool)
        for side in self.beside[: len(ways)]:
            behind(side)
        return logprobs[0], distances(self.ours, self.theirs)

    def _through(self, i: int, pool: Tensor) -> None:
        self.layer(i, i, pool, self.theirs[i], self.ours[i + 1])


class Probe(Prompt):
    """In a trainer: through the parts of a publish, which are all the weights there are, each of them as soon as it has
    been made: on a stream of its own, so that a layer is walked through while the next one is made."""

    def __init__(self, c: ModelConfig, precision: Precision, device: torch.device, prompt: tuple[int, ...]) -> None:
        super().__init__(Served(c, precision, device), prompt, pools=1)
        self.residual = self.streams()
        self.steps: dict[str, Replayed] = {}
        self.logprobs, self.walked = torch.empty(0), torch.cuda.Event() if device.type == "cuda" else None

    @torch.no_grad()
    def through(self, part: Part) -> None:
        """Behind what has been launched so far. Parts come in order."""
        if part.name == "mtp":
            return
        if part.name not in self.steps:
            self.steps[part.name] = Replayed(lambda *_: self._step, self.recorder)
        with beside(self.stream):
            if part.name == "head" and self.walked is not None:
                self.walked.record()
            for found in self.steps[part.name](part.piece.data_ptr(), part):
                self.logprobs = found

    def found(self) -> Iterator[Tensor]:
        """After the last part, what `Probed` has, each as soon as it is there; it stays until the next prompt."""
        if self.walked is not None:
            self.walked.wait()
        yield self.residual
        behind(self.stream)
        yield self.logprobs

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
