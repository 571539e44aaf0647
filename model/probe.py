"""The fixed prompt that proves a publish: what it comes to as a trainer runs it through the parts that it sends, and in
an engine's model. `model.walk` has both by the kernels of an engine on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from model import rope
from model.config import ModelConfig, Precision
from model.linear import RMSNorm, compute_dtype, set_precision, set_rounded
from model.parts import Part, decoded
from model.segments import Segments
from model.transformer import Block, Transformer


class Probed(NamedTuple):
    """What the fixed prompt came to: ``stream`` [layers + 1, n - 1, H], the residual stream of each of its tokens but
    the last in front of the first layer and behind each, and ``logprobs`` FP32 [n - 1] of those after the first."""

    stream: Tensor
    logprobs: Tensor


class Walking(Protocol):
    """An engine's prompt beside the trainer's, in one publish."""

    def against(self, theirs: Tensor) -> None:
        """`Probed`'s stream, when the embedding and all layers have been taken."""

    def to_the_end(self) -> None:
        """After that, when the head has."""

    def found(self) -> tuple[Tensor, Tensor]:
        """The log-probabilities [n - 1] behind the trainer's stream, and how far the embedding and each layer are off
        it, relative to it and on average over the tokens, FP32 [layers + 1]. Both stay until the next prompt."""


LONGEST = 48
FEW = 2


def probe_prompt(c: ModelConfig, text: Sequence[int] = (), *, every_expert: bool = True) -> tuple[int, ...]:
    """So many tokens that nearly every expert gets one: of those that a fair router would choose, e^-4 are missed. Or a
    ``FEW``: one that walks, by the kernels of an engine, and one that it leads to.

    They are those of ``text``, over and over, and without any just numbers. A trained model gives tokens that make no
    sense log-probabilities of -17 on average, which kernels that round otherwise move by nats (up to 5.7 in FP8, 1.2 on
    average, in a model of 20 million weights); those of its problems by less than a tenth on average.
    """
    wanted = max(8, 4 * c.n_routed_experts // c.num_experts_per_tok) if every_expert else FEW
    tokens = min(LONGEST, wanted, c.max_position_embeddings)
    numbers = (i * 7919 % c.vocab_size for i in range(tokens))
    return tuple(islice(cycle(text) if text else numbers, tokens))


@contextmanager
def one_thread() -> Iterator[None]:
    """Trainer and engine may have different numbers of threads on a CPU, whose sums differ in their last digit; where
    that lies on the edge between two FP8 numbers, it becomes a difference in the second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Probe:
    """Runs the fixed prompt through a publish as it is made, with the very tensors that are sent."""

    def __init__(self, c: ModelConfig, precision: Precision, device: torch.device, prompt: tuple[int, ...]) -> None:
        self.c, self.precision, self.device, self.prompt = c, precision, device, prompt
        self.tokens = torch.tensor(self.prompt, device=device)
        self.segments = Segments.of([len(self.prompt)], device)
        self.turns = rope.rotations(self.segments.positions, rope.frequencies(c).to(device))
        self.blocks: dict[bool, tuple[Block, dict[str, Tensor]]] = {}
        self.hidden = self.found = torch.empty(0)
        self.stream: list[Tensor] = []

    def begun(self) -> Probe:
        """For one publish, which begins anew with its first part."""
        return self

    @one_thread()
    @torch.no_grad()
    def through(self, part: Part) -> None:
        """Runs the prompt through a part. They come in order."""
        if part.name == "embed_tokens":
            embedded = part.tensors["embed_tokens.weight"][self.tokens]
            self.hidden = embedded.to(compute_dtype(self.precision, self.device))
            self.stream = [self.hidden[:-1]]
        elif part.name == "head":
            self._finish(part.tensors)
        elif part.name != "mtp":
            self.hidden = self._block(part)(self.hidden, self.turns, self.segments)[0]
            self.stream.append(self.hidden[:-1])

    def rows(self) -> Tensor:
        """After the head, `Probed`'s stream."""
        return torch.stack(self.stream)

    def logprobs(self) -> Tensor:
        """After the head, `Probed`'s."""
        return self.found

    def _block(self, part: Part) -> Block:
        """A layer with the weights of a part; there is one of each kind, for to build one takes longer than to run
        it."""
        layer = int(part.name.removeprefix("layers."))
        # Tensors of their own, since the block's are pointed at the next part, and a buffer would be this part's.
        values = {name.removeprefix(part.name + "."): value.detach() for name, value in decoded(part.tensors)}
        dense = layer < self.c.first_k_dense_replace
        if dense not in self.blocks:
            with torch.device("meta"):
                block = Block(self.c, layer)
            block.load_state_dict(values, assign=True)
            set_precision(block, self.precision)
            set_rounded(block, self.precision == "fp8")
            self.blocks[dense] = block, block.state_dict(keep_vars=True)
        block, state = self.blocks[dense]
        for name, value in values.items():
            state[name].data = value
        return block

    def _finish(self, tensors: Mapping[str, Tensor]) -> None:
        norm = RMSNorm(self.c.hidden_size, self.c.rms_norm_eps).to(self.device)
        norm.weight.copy_(tensors["norm.weight"])
        hidden = norm(self.hidden[:-1])
        logits = torch.nn.functional.linear(hidden, tensors["lm_head.weight"].to(hidden.dtype)).float()
        self.found = chosen(logits, self.tokens)


@one_thread()
@torch.no_grad()
def probed(model: Transformer, probe: tuple[int, ...]) -> Probed:
    """What a prompt comes to in a model."""
    tokens, segments = torch.tensor(probe, device=model.device), Segments.of([len(probe)], model.device)
    turns, hidden = rope.rotations(segments.positions, model.freqs), model.embed_tokens(tokens).to(model.dtype)
    seen = [hidden[:-1]]
    for block in model.blocks():
        hidden = block(hidden, turns, segments)[0]
        seen.append(hidden[:-1])
    return Probed(torch.stack(seen), chosen(model.logits(model.norm(hidden)[:-1]), tokens))


def chosen(logits: Tensor, tokens: Tensor) -> Tensor:
    """logits FP32 [n - 1, V] behind the first n - 1 of tokens [n] -> the log-probabilities [n - 1] of those after the
    first."""
    return logits.log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)


def norms(hidden: Tensor) -> Tensor:
    """Of each row of a residual stream [..., n, H], FP32."""
    found: Tensor = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
    return found
