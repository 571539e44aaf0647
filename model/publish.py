"""Handing the trainer's weights to an engine, and proving that they arrived.

A `Published` is one version of the weights in the engine's precision: FP8 bytes and scales where the engine runs FP8.
It is made, sent and taken one `Part` at a time: the embedding, each layer, the head. Each tensor carries a digest of
its bytes (`model.digest`). A fixed prompt is run through the parts as they are made, with exactly these weights, by the
kernels of an engine where there is a GPU and by the trainer's own modules elsewhere; its log-probabilities come with
the last part. An engine checks both before it samples: the digests find what was damaged on the way, the
log-probabilities what was loaded wrongly, and what the prompt looked like behind each layer says where.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from model import fp8, rope
from model.config import ModelConfig, Precision
from model.digest import digests, host_bytes, matching
from model.dispatch import has_triton
from model.linear import GroupedLinear, RMSNorm, compute_dtype, set_precision, set_rounded
from model.segments import Segments
from model.transformer import Block, Transformer

if TYPE_CHECKING:
    from model import serving

SCALE = ".scale_inv"
T = TypeVar("T")


class Tolerance(NamedTuple):
    """How far an engine may be from the trainer on the probe: ``largest`` and ``mean`` difference of log-probabilities
    in nats, ``trace`` relative difference of the norms behind a layer."""

    largest: float
    mean: float
    trace: float


ROUNDING = Tolerance(1e-3, 1e-3, 1e-3)
"""The same arithmetic on the same weights differs by rounding alone, as between two kinds of processor."""


class PublishError(RuntimeError):
    """New weights did not arrive as they were sent; no rollout may start."""

    exit_status = 1


@dataclass(frozen=True)
class Part:
    """Some of the weights: ``tensors`` maps a parameter's name to its tensor (and name + ".scale_inv" to FP8 scales),
    ``digests`` each tensor's name to its digest."""

    name: str
    tensors: Mapping[str, Tensor]
    digests: Mapping[str, str]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels as plain byte arrays, which a process boundary can pass without copying; torch's own pickling
        cannot read FP8 tensors back."""
        packed = {
            n: (str(t.dtype).removeprefix("torch."), tuple(t.shape), host_bytes(t)) for n, t in self.tensors.items()
        }
        return _unpacked, (self.name, packed, self.digests)


def _unpacked(name: str, packed: dict[str, Any], digests: Mapping[str, str]) -> Part:
    tensors = {
        name: torch.from_numpy(data.copy()).view(getattr(torch, dtype)).view(shape)
        for name, (dtype, shape, data) in packed.items()
    }
    return Part(name, tensors, digests)


@dataclass(frozen=True)
class Published:
    """``parts`` in the order of the model; where they lie elsewhere, going through them fetches one at a time.
    ``probe`` is the fixed prompt and ``probe_logprobs`` the log-probabilities FP32 [len(probe) - 1] of its tokens after
    the first; both are empty where there is no proof. ``traces``: by layer, the norm of each of its tokens' residual
    stream behind it. ``kernels``: they were computed by the kernels of an engine on a GPU."""

    version: int
    precision: Precision
    parts: Iterable[Part]
    probe: tuple[int, ...]
    probe_logprobs: tuple[float, ...]
    traces: Mapping[str, tuple[float, ...]]
    kernels: bool = False


def publish(
    model: Transformer,
    version: int,
    precision: Precision,
    place: Callable[[Iterable[Part]], Iterable[Part]] = list,
    *,
    proof: bool = True,
) -> Published:
    """The model's weights as an engine of ``precision`` multiplies them. ``place`` puts the parts, which are made as it
    goes through them, where engines can fetch them. Without ``proof`` nothing can be checked: to measure what the proof
    costs."""
    if not proof:
        return Published(version, precision, place(ahead(made(model, precision))), (), (), {})
    probe = prober(model.c, precision, model.device)
    parts = place(map(probe.through, ahead(map(digested, made(model, precision)))))
    return Published(version, precision, parts, probe.prompt, *probe.found(), not isinstance(probe, Probe))


def prober(c: ModelConfig, precision: Precision, device: torch.device) -> Probe | serving.Probe:
    """By the kernels of an engine on a GPU where they run here, by the modules elsewhere."""
    if device.type == "cuda" and has_triton():
        from model import serving

        if serving.unsupported(c, precision) is None:
            return _kept_probe(c, precision, device)
    return Probe(c, precision, device)


@functools.lru_cache(maxsize=1)
def _kept_probe(c: ModelConfig, precision: Precision, device: torch.device) -> serving.Probe:
    from model import serving

    return serving.Probe(c, precision, device)


@torch.no_grad()
def made(model: Transformer, precision: Precision) -> Iterator[Part]:
    """The parts of a publish, each a copy, without their digests."""
    layers = {name + ".weight" for name, module in model.named_modules() if isinstance(module, GroupedLinear)}
    for name, state in split(model.state_dict()):
        tensors: dict[str, Tensor] = {}
        for key, tensor in state.items():
            if precision == "fp8" and key in layers:
                tensors[key], tensors[key + SCALE] = fp8.quantize_blocks(tensor)
            elif precision == "bf16" and key in layers:
                tensors[key] = tensor.to(torch.bfloat16)
            else:
                tensors[key] = tensor.detach().clone()
        yield Part(name, tensors, {})


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each made by a thread while the one before it is used."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        made: Future[Any] = thread.submit(next, source, end)
        while (item := made.result()) is not end:
            made = thread.submit(next, source, end)
            yield item


def digested(part: Part) -> Part:
    return Part(part.name, part.tensors, digests(part.tensors))


def split(state: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """A state dict in parts, in the order of the model and named as their modules: ``embed_tokens``, ``layers.0``, ...,
    ``head`` and, for drafts, ``mtp``."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        first, second, *_ = key.split(".")
        name = f"layers.{second}" if first == "layers" else first if first in ("embed_tokens", "mtp") else "head"
        parts.setdefault(name, {})[key] = tensor
    yield from parts.items()


def probe_prompt(c: ModelConfig) -> tuple[int, ...]:
    """So many tokens that nearly every expert gets one: of those that a fair router would choose, e^-4 are missed."""
    tokens = min(48, max(8, 4 * c.n_routed_experts // c.num_experts_per_tok), c.max_position_embeddings)
    return tuple(i * 7919 % c.vocab_size for i in range(tokens))


class Probe:
    """Runs the fixed prompt through a publish as it is made, with the very tensors that are sent."""

    def __init__(self, c: ModelConfig, precision: Precision, device: torch.device) -> None:
        self.c, self.precision, self.device = c, precision, device
        self.prompt = probe_prompt(c)
        self.tokens = torch.tensor(self.prompt, device=device)
        self.segments = Segments.of([len(self.prompt)], device)
        self.turns = rope.rotations(self.segments.positions, rope.frequencies(c).to(device))
        self.blocks: dict[bool, Block] = {}
        self.hidden = self.logprobs = torch.empty(0)
        self.norms: dict[str, Tensor] = {}

    @torch.no_grad()
    def through(self, part: Part) -> Part:
        """Runs the prompt through a part. They come in order."""
        if part.name == "embed_tokens":
            embedded = part.tensors["embed_tokens.weight"][self.tokens]
            self.hidden = embedded.to(compute_dtype(self.precision, self.device))
            return part
        if part.name == "head":
            self._finish(part.tensors)
        if part.name in ("head", "mtp"):
            return part
        layer = int(part.name.removeprefix("layers."))
        dense = layer < self.c.first_k_dense_replace
        if dense not in self.blocks:
            with torch.device("meta"):
                self.blocks[dense] = Block(self.c, layer)
        block = self.blocks[dense]
        values = {name.removeprefix(part.name + "."): value for name, value in decoded(part.tensors)}
        block.load_state_dict(values, assign=True)
        set_precision(block, self.precision)
        set_rounded(block, self.precision == "fp8")
        self.hidden = block(self.hidden, self.turns, self.segments)[0]
        self.norms[part.name] = norms(self.hidden)
        return part

    def found(self) -> tuple[tuple[float, ...], dict[str, tuple[float, ...]]]:
        """After the last part: the log-probabilities of the tokens after the first, and each layer's trace."""
        return listed(self.logprobs, self.norms)

    def _finish(self, tensors: Mapping[str, Tensor]) -> None:
        norm = RMSNorm(self.c.hidden_size, self.c.rms_norm_eps).to(self.device)
        norm.weight.copy_(tensors["norm.weight"])
        hidden = norm(self.hidden[:-1])
        logits = torch.nn.functional.linear(hidden, tensors["lm_head.weight"].to(hidden.dtype)).float()
        self.logprobs = chosen(logits, self.tokens)


def decoded(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each parameter as it is multiplied, FP8 as what it decodes to."""
    for name, value in tensors.items():
        if name + SCALE in tensors:
            yield name, fp8.dequantize_blocks(fp8.Quantized(value, tensors[name + SCALE]))
        elif not name.endswith(SCALE):
            yield name, value


def accept(model: Transformer, weights: Published) -> None:
    """Loads ``weights`` into an engine's model, part by part, and checks digests and log-probabilities. Raises
    PublishError."""
    state = dict(model.state_dict())
    for part in ahead(map(checked, weights.parts)):
        load_state({n: t for n, t in state.items() if n in part.tensors}, part.tensors, part.name)
        for name in part.tensors:
            state.pop(name, None)
    if state:
        raise PublishError(f"published tensors do not fit the engine's model: {min(state)} is missing")
    model.use(weights.precision)
    set_rounded(model, weights.precision == "fp8")
    if weights.probe:
        got, seen = probed(model, weights.probe)
        check_probe(got, seen, weights, ROUNDING)


def checked(part: Part) -> Part:
    check_bytes(part)
    return part


def check_bytes(part: Part) -> None:
    """Raises PublishError naming the first tensor whose bytes differ from what the trainer sent."""
    arrived = matching({name: tensor for name, tensor in part.tensors.items() if name in part.digests}, part.digests)
    for name, digest in part.digests.items():
        if arrived.get(name) != digest:
            raise PublishError(
                f"published tensor {name} differs from what the trainer sent; no rollout was started. Restart the run "
                "with --resume; if it comes back, check the memory or the network of this host"
            )


def check_probe(
    got: Sequence[float],
    seen: Sequence[Sequence[float]],
    weights: Published,
    tolerance: Tolerance,
) -> None:
    """Compares an engine's log-probabilities of the probe, and its traces behind each layer (``seen``, empty where it
    has none), with the trainer's. Raises PublishError naming the first layer that computes something else."""
    gaps = [abs(a - b) for a, b in zip(got, weights.probe_logprobs, strict=True)]
    if all(gap <= tolerance.largest for gap in gaps) and sum(gaps) <= tolerance.mean * len(gaps):
        return
    where = "behind the last layer" if seen else "anywhere"
    mean = sum(gaps) / len(gaps)
    for (name, ours), theirs in zip(weights.traces.items(), seen, strict=False):
        if not all(abs(a - b) <= tolerance.trace * abs(a) for a, b in zip(ours, theirs, strict=True)):
            where = f"in {name}, the first whose output differs"
            break
    raise PublishError(
        f"weight version {weights.version}: the bytes arrived, but the engine's log-probabilities of the fixed prompt "
        f"differ from the trainer's by up to {max(gaps):.3g} (tolerance {tolerance.largest:g}) and by {mean:.3g} on "
        f"average ({tolerance.mean:g}): weights were loaded wrongly {where}; no rollout was started"
    )


def load_state(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Sets ``state``'s tensors in place, from FP8 what it decodes to. Raises PublishError naming a tensor that is
    missing or not expected."""
    given = {name for name in tensors if not name.endswith(SCALE)}
    if given != set(state):
        name = min(given ^ set(state))
        raise PublishError(f"published tensors do not fit the engine's model: {name} ({where})")
    with torch.no_grad():
        for name, value in decoded(tensors):
            state[name].copy_(value)


@torch.no_grad()
def probed(model: Transformer, probe: tuple[int, ...]) -> tuple[tuple[float, ...], list[tuple[float, ...]]]:
    """The log-probabilities of a prompt's tokens after the first, and its trace behind each layer."""
    tokens, segments = torch.tensor(probe, device=model.device), Segments.of([len(probe)], model.device)
    turns, seen = rope.rotations(segments.positions, model.freqs), {}
    hidden = model.embed_tokens(tokens).to(model.dtype)
    for i, block in enumerate(model.blocks()):
        hidden = block(hidden, turns, segments)[0]
        seen[f"layers.{i}"] = norms(hidden)
    logprobs, traces = listed(chosen(model.logits(model.norm(hidden)[:-1]), tokens), seen)
    return logprobs, [*traces.values()]


def chosen(logits: Tensor, tokens: Tensor) -> Tensor:
    """logits FP32 [n - 1, V] behind the first n - 1 of tokens [n] -> the log-probabilities [n - 1] of those after the
    first."""
    return logits.log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)


def norms(hidden: Tensor) -> Tensor:
    """Of each row of a residual stream [n, H]."""
    found: Tensor = torch.linalg.vector_norm(hidden.float(), dim=-1)
    return found


def trace(hidden: Tensor) -> tuple[float, ...]:
    return tuple(norms(hidden).tolist())


def listed(logprobs: Tensor, layers: Mapping[str, Tensor]) -> tuple[tuple[float, ...], dict[str, tuple[float, ...]]]:
    """A probe's log-probabilities and norms as numbers, with one wait for a GPU."""
    rows = torch.stack([*layers.values()]).tolist()
    return tuple(logprobs.tolist()), {name: tuple(row) for name, row in zip(layers, rows, strict=True)}
