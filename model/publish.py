"""Handing the trainer's weights to an engine, and proving that they arrived.

A `Published` is one version of the weights in the engine's precision: FP8 bytes and scales where the engine runs FP8.
It is made, sent and taken one `Part` at a time: the embedding, each layer, the head, and at last the proof. It holds
a digest of each tensor's bytes (`model.digest`), and what a fixed prompt, run through the very tensors that are sent,
looked like behind each layer and in the end: its log-probabilities, by the kernels of an engine where there is a GPU
and by the trainer's own modules elsewhere. An engine checks both before it samples: the digests find what was damaged
on the way, the log-probabilities what was loaded wrongly, and the traces behind each layer say where.

The proof comes last, and as tensors, so that no device has to be waited for while weights are made and sent. An engine
waits for its own at the end: for all digests, for the proof, and for the prompt.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from model import fp8
from model.config import ModelConfig, Precision
from model.digest import Kind, digests, kind_on
from model.dispatch import has_triton
from model.linear import GroupedLinear, set_rounded
from model.parts import SCALE, Outline, Part, decoded, split
from model.probe import Probe, Probed, Walking, norms, probe_prompt, probed
from model.replayed import fetched, moving
from model.transformer import Transformer

if TYPE_CHECKING:
    from model import walk
    from model.outgoing import Outgoing

STREAM, PROOF = "stream", "proof"
"""The names of the part that holds the prompt's stream, in front of the head, and of the last one."""
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
"""Of the matrices in the layers."""
TABLES = ("embed_tokens.weight", "lm_head.weight")
"""The matrices outside, which kernels take in BF16, and others as they are."""
E4M3_SINCE = (8, 9)
"""The first GPUs that convert to it."""
Check = Literal["digests", "probe"]
CHECKS: tuple[Check, ...] = ("digests", "probe")


@dataclass(frozen=True)
class PublishSettings:
    """``text``: tokens that mean something to the model, for the fixed prompt (`model.probe.probe_prompt`).
    ``to_kernels``: engines are native ones, whose kernels digest weights as they write them into their places; then the
    prompt proves the arithmetic, and need not reach every expert. With fewer ``checks`` less is proven: to measure what
    one costs."""

    text: tuple[int, ...] = ()
    to_kernels: bool = False
    checks: tuple[Check, ...] = CHECKS


USUAL = PublishSettings()


class Tolerance(NamedTuple):
    """How far an engine may be from the trainer on the probe: ``largest`` and ``mean`` difference of log-probabilities
    in nats, ``trace`` relative difference behind a layer."""

    largest: float
    mean: float
    trace: float

    def allows(self, gaps: Sequence[float]) -> bool:
        return all(gap <= self.largest for gap in gaps) and sum(gaps) <= self.mean * len(gaps)

    def exceeded(self, gaps: Sequence[float]) -> str:
        return (
            f"log-probabilities of the fixed prompt differ from the trainer's by up to {max(gaps):.3g} (tolerance "
            f"{self.largest:g}) and by {sum(gaps) / len(gaps):.3g} on average ({self.mean:g})"
        )


ROUNDING = Tolerance(1e-3, 1e-3, 1e-3)
"""The same arithmetic on the same weights differs by rounding alone, as between two kinds of processor."""


class PublishError(RuntimeError):
    """New weights did not arrive as they were sent; no rollout may start."""

    exit_status = 1


@dataclass(frozen=True)
class Published:
    """``parts`` in the order of the model, in front of the head the prompt's stream, by which engines walk through
    their layers while the head is sent, and in the end the proof; where they lie elsewhere or are still to be made,
    going through them does so one at a time. ``names`` are the tensors' in the order of the proof's ``digests``, which
    are of this ``kind``. ``probe`` is the fixed prompt; ``kernels`` says that the kernels of an engine on a GPU were
    given it. What is not to be checked is None or empty."""

    version: int
    precision: Precision
    parts: Iterable[Part]
    names: tuple[str, ...]
    kind: Kind | None
    probe: tuple[int, ...]
    kernels: bool = False


def publish(
    model: Transformer,
    version: int,
    precision: Precision,
    place: Callable[[Iterable[Part]], Iterable[Part]] = list,
    settings: PublishSettings = USUAL,
) -> Published:
    """The model's weights as an engine of ``precision`` multiplies them. ``place`` puts the parts, which are made as it
    goes through them, where engines can fetch them. `iter` leaves them to an engine in this process, which goes through
    them once and before the weights change: then each is taken before the next one is made."""
    kernels = has_kernels(model.c, precision, model.device)
    to_kernels = settings.to_kernels and kernels
    kind = kind_on(model.device) if "digests" in settings.checks else None
    prompt = probe_prompt(model.c, settings.text, every_expert=not to_kernels) if "probe" in settings.checks else ()
    source = maker(model, precision, to_kernels)
    making = source.made(kind)

    def proven() -> Iterator[Part]:
        sent: list[Tensor] = []
        probe: Probe | walk.Probing | None = None
        for part, digest in making:
            sent.append(digest)
            if prompt:
                if probe is None:  # once a GPU has something to do
                    probe = prober(model.c, precision, model.device, prompt).begun()
                probe.through(part)
                if part.name == "head":
                    yield source.further(STREAM, {"stream": probe.rows()})
            yield part
        proof = {"digests": torch.cat(sent)} if kind else {}
        if probe is not None:
            proof["logprobs"] = probe.logprobs()
        if proof:
            yield source.further(PROOF, proof)

    with moving(model.device):
        return Published(version, precision, place(proven()), source.names, kind, prompt, kernels and bool(prompt))


@functools.lru_cache(maxsize=1)
def prober(c: ModelConfig, precision: Precision, device: torch.device, prompt: tuple[int, ...]) -> Probe | walk.Probe:
    """What runs a prompt through publishes: by the kernels of an engine on a GPU where they run here, by the modules
    elsewhere. It is kept for the next one."""
    if has_kernels(c, precision, device):
        from model import walk

        return walk.Probe(c, precision, device, prompt)
    return Probe(c, precision, device, prompt)


def has_kernels(c: ModelConfig, precision: Precision, device: torch.device) -> bool:
    """Whether the kernels of an engine on a GPU run here."""
    if device.type != "cuda" or not has_triton():
        return False
    from model import serving

    return serving.unsupported(c, precision) is None


Outlined = tuple[Outline, dict[str, Tensor]]
"""A part of a publish to be, and the weights that it is made of."""


def made(model: Transformer, precision: Precision, *, to_kernels: bool = False) -> Iterator[Part]:
    """The weights of a publish, part by part, each a copy."""
    return (copied(*each) for each in outlined(model, precision, to_kernels=to_kernels))


@torch.no_grad()
def copied(outline: Outline, state: Mapping[str, Tensor]) -> Part:
    part = outline.empty(next(iter(state.values())).device)
    for key, tensor in state.items():
        if key + SCALE in outline.tensors:
            quantize(tensor, fp8.Quantized(part.tensors[key], part.tensors[key + SCALE]))
        else:
            part.tensors[key].copy_(tensor)
    return part


def outlined(model: Transformer, precision: Precision, *, to_kernels: bool) -> Iterator[Outlined]:
    """The parts of a publish, and the weights of each. What is multiplied in FP8 comes last, each with its scales."""
    layers = {name + ".weight" for name, module in model.named_modules() if isinstance(module, GroupedLinear)}
    dtypes = dict.fromkeys(layers, DTYPES.get(precision))
    if to_kernels and precision != "fp32":
        dtypes |= dict.fromkeys(TABLES, torch.bfloat16)
    for name, state in split(model.state_dict()):
        plain: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        blocks: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for key, tensor in state.items():
            dtype = dtypes.get(key) or tensor.dtype
            if dtype == torch.float8_e4m3fn:
                blocks |= {key: (dtype, tensor.shape), key + SCALE: (torch.float32, fp8.scale_shape(tensor))}
            else:
                plain[key] = dtype, tensor.shape
        yield Outline.of(name, plain | blocks), state


def quantize(w: Tensor, out: fp8.Quantized) -> None:
    """An FP32 weight [..., N, K] in 128x128 blocks."""
    if has_e4m3(w.device):
        from model.kernels.quantize import quantize_blocks

        experts = w if w.dim() == 3 else w.unsqueeze(0)
        quantize_blocks(experts, out=fp8.Quantized(*(t.view(len(experts), *t.shape[-2:]) for t in out)))
        return
    data, scale = fp8.quantize_blocks(w)
    out.data.copy_(data)
    out.scale.copy_(scale)


class Fresh:
    """Where publishes are made in memory of their own, and digested afterwards. ``names`` of their tensors."""

    def __init__(self, model: Transformer, precision: Precision, *, to_kernels: bool = False) -> None:
        self.outlined = list(outlined(model, precision, to_kernels=to_kernels))
        self.names = tuple(name for outline, _ in self.outlined for name in outline.tensors)

    def made(self, kind: Kind | None) -> Iterator[tuple[Part, Tensor]]:
        """Each part with the digests of its tensors, as `digested` gives them."""
        return ((part, digested(part, kind)) for part in itertools.starmap(copied, self.outlined))

    def further(self, name: str, tensors: Mapping[str, Tensor]) -> Part:
        """A part of other tensors than the model's."""
        return Part.of(name, tensors)


def maker(model: Transformer, precision: Precision, to_kernels: bool) -> Fresh | Outgoing:
    if has_e4m3(model.device):
        from model.outgoing import outgoing

        out = outgoing(model, precision, to_kernels=to_kernels)
        if out is not None:
            return out
    return Fresh(model, precision, to_kernels=to_kernels)


def has_e4m3(device: torch.device) -> bool:
    """Whether there are kernels, and a GPU that converts to FP8."""
    return device.type == "cuda" and has_triton() and torch.cuda.get_device_capability(device) >= E4M3_SINCE


def digested(part: Part, kind: Kind | None) -> Tensor:
    """Its tensors' digests of this kind, int64 [tensors, 2], or [0, 2] for none."""
    return torch.empty(0, 2, dtype=torch.int64) if kind is None else digests([*part.tensors.values()], kind)


class Arriving:
    """The weights of a publish as an engine goes through them, part by part. When it has, their digests have been
    compared. Raises PublishError naming the first tensor whose bytes differ from what the trainer sent. ``take``
    digests a part as `digested` does, and may load it meanwhile. Where a ``walk`` compares the prompt with the
    trainer's stream as it comes, all is checked by `check`, which waits once."""

    def __init__(
        self,
        weights: Published,
        take: Callable[[Part, Kind | None], Tensor] = digested,
        walk: Walking | None = None,
    ) -> None:
        self.weights, self.take, self.walk = weights, take, walk
        self.sent: dict[str, Tensor] = {}
        self.names: tuple[str, ...] = ()
        self.taken = torch.zeros(0)
        self.report: Callable[[], list[float]] = list

    def __iter__(self) -> Iterator[Part]:
        names: list[str] = []
        found: list[Tensor] = []
        for part in self.weights.parts:
            if part.name == STREAM:
                stream = part.tensors["stream"]
                if self.walk is None:
                    stream = stream.clone()  # later parts may come to the same place
                else:
                    self.walk.against(stream)
                self.sent["stream"] = stream
            elif part.name == PROOF:
                self.sent |= part.tensors
            else:
                names.extend(part.outline.tensors)
                found.append(self.take(part, self.weights.kind))
                if part.name == "head" and self.walk is not None:
                    self.walk.to_the_end()
                yield part
        wanted = {"digests"} if self.weights.kind is not None else set[str]()
        if not self.sent.keys() >= wanted | ({*Probed._fields} if self.weights.probe else set()):
            raise PublishError(f"weight version {self.weights.version} arrived without its proof")
        self.names = tuple(names)
        self._compare(found)
        if self.walk is None:
            self.check(ROUNDING)

    def _compare(self, found: Sequence[Tensor]) -> None:
        """Where things lie, since the host would take as long as a layer takes: whether all digests are those that were
        sent. With what the prompt came to it is fetched as it is found."""
        report = []
        if self.weights.kind is not None:
            self.taken = taken = torch.cat([*found])
            sent = self.sent["digests"].to(taken.device) if self.names == self.weights.names else None
            report.append((taken.new_zeros(()) if sent is None else (taken == sent).all()).float().view(1))
        if self.walk is not None:
            report += [self.sent["logprobs"], *self.walk.found()]
        if report:
            self.report = fetched(torch.cat([piece.to(report[-1].device) for piece in report]))

    def check(self, tolerance: Tolerance) -> None:
        """Waits for what has been compared. Raises PublishError naming the first tensor that did not arrive as it was
        sent, or the first layer that computes something else."""
        numbers = self.report()
        if self.weights.kind is not None and not numbers.pop(0):
            self._differ()
        if numbers:
            count = len(self.weights.probe) - 1
            gaps = [abs(a - b) for a, b in zip(numbers[:count], numbers[count : 2 * count], strict=True)]
            check_walk(numbers[2 * count :], gaps, self.weights.version, tolerance)

    def _differ(self) -> None:
        arrived = dict(zip(self.names, self.taken.tolist(), strict=True))
        for name, digest in zip(self.weights.names, self.sent["digests"].tolist(), strict=True):
            if arrived.get(name) != digest:
                raise PublishError(
                    f"published tensor {name} differs from what the trainer sent; no rollout was started. Restart "
                    "the run with --resume; if it comes back, check the memory or the network of this host"
                )

    @property
    def expected(self) -> Probed | None:
        """What the trainer found on the probe, on the host, once all has arrived."""
        return Probed(self.sent["stream"].cpu(), self.sent["logprobs"].cpu()) if self.weights.probe else None


def accept(model: Transformer, weights: Published) -> None:
    """Loads ``weights`` into an engine's model, part by part, and checks digests and log-probabilities. Raises
    PublishError."""
    state, arriving = dict(model.state_dict()), Arriving(weights)
    for part in arriving:
        load_state({n: t for n, t in state.items() if n in part.tensors}, part.tensors, part.name)
        for name in part.tensors:
            state.pop(name, None)
    if state:
        raise PublishError(f"published tensors do not fit the engine's model: {min(state)} is missing")
    model.use(weights.precision)
    set_rounded(model, weights.precision == "fp8")
    if arriving.expected is not None:
        got = probed(model, weights.probe)
        check_probe(got.logprobs.cpu(), norms(got.stream[1:]).cpu(), arriving.expected, weights.version, ROUNDING)


def check_probe(logprobs: Tensor, traces: Tensor, expected: Probed, version: int, tolerance: Tolerance) -> None:
    """Compares an engine's probe with the trainer's: its log-probabilities and, to name the place, ``traces`` [layers,
    n - 1], the norms of the stream behind each layer, or [0, n - 1] where they are not known. Raises PublishError
    naming the first layer that computes something else."""
    gaps = (logprobs - expected.logprobs).abs().tolist()
    if tolerance.allows(gaps):
        return
    where = "behind the last layer" if len(traces) else "anywhere"
    for i, (theirs, ours) in enumerate(zip(traces, norms(expected.stream[1:]), strict=False)):
        if not ((ours - theirs).abs() <= tolerance.trace * ours.abs()).all():
            where = f"in layers.{i}, the first whose output differs"
            break
    raise loaded_wrongly(version, tolerance.exceeded(gaps), where)


def check_walk(distances: Sequence[float], gaps: Sequence[float], version: int, tolerance: Tolerance) -> None:
    """Of a prompt that the engine walked through layer by layer, each from where the trainer's was: ``distances`` of
    what the embedding and each layer made of it, and ``gaps`` of the log-probabilities. Raises PublishError."""
    for i, distance in enumerate(distances):
        if not distance <= tolerance.trace:
            name = f"layers.{i - 1}" if i else "embed_tokens"
            what = f"output of {name} for the fixed prompt differs from the trainer's by {distance:.3g} of its size"
            raise loaded_wrongly(version, f"{what} (tolerance {tolerance.trace:g})", "there")
    if not tolerance.allows(gaps):
        raise loaded_wrongly(version, tolerance.exceeded(gaps), "behind the last layer")


def loaded_wrongly(version: int, what: str, where: str) -> PublishError:
    return PublishError(
        f"weight version {version}: the bytes arrived, but the engine's {what}: weights were loaded wrongly {where}; "
        "no rollout was started"
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
