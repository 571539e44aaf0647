"""Handing the trainer's weights to an engine, and proving that they arrived.

A `Published` is one version of the weights in the engine's precision: FP8 bytes and scales where the engine runs FP8.
It carries a digest of its bytes and, for a fixed prompt, the log-probabilities that the trainer's own modules give
with exactly these weights. An engine checks both before it samples: the digest finds what was damaged on the way, the
log-probabilities find what was loaded wrongly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model import fp8
from model.config import Precision
from model.linear import GroupedLinear, set_rounded
from model.segments import Segments
from model.transformer import Transformer

SCALE = ".scale_inv"


class PublishError(RuntimeError):
    """New weights did not arrive as they were sent; no rollout may start."""

    exit_status = 1


@dataclass(frozen=True)
class Published:
    """``tensors`` maps a parameter's name to its tensor (and name + ".scale_inv" to FP8 scales). ``digests`` gives
    each tensor's BLAKE2b digest, ``probe`` the fixed prompt and ``probe_logprobs`` the log-probabilities FP32
    [len(probe) - 1] of its tokens after the first."""

    version: int
    precision: Precision
    tensors: Mapping[str, Tensor]
    digests: Mapping[str, str] = field(default_factory=dict)
    probe: tuple[int, ...] = ()
    probe_logprobs: tuple[float, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels as plain byte arrays, which a process boundary can pass without copying; torch's own pickling
        cannot read FP8 tensors back."""
        packed = {n: (str(t.dtype).removeprefix("torch."), tuple(t.shape), _bytes(t)) for n, t in self.tensors.items()}
        rest = (self.digests, self.probe, self.probe_logprobs)
        return _unpacked, (self.version, self.precision, packed, *rest)


def _unpacked(version: int, precision: Precision, packed: dict[str, Any], *rest: Any) -> Published:
    tensors = {
        name: torch.from_numpy(data.copy()).view(getattr(torch, dtype)).view(shape)
        for name, (dtype, shape, data) in packed.items()
    }
    return Published(version, precision, tensors, *rest)


def _bytes(tensor: Tensor) -> Any:
    """The tensor's bytes as a NumPy array, uint8 [n]."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def publish(model: Transformer, version: int, precision: Precision) -> Published:
    """The model's weights as an engine of ``precision`` multiplies them. MTP modules stay with the trainer."""
    layers = {name + ".weight": module for name, module in model.named_modules() if isinstance(module, GroupedLinear)}
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("mtp."):
            continue
        if precision == "fp8" and name in layers:
            tensors[name], tensors[name + SCALE] = fp8.quantize_blocks(tensor)
        elif precision == "bf16" and name in layers:
            tensors[name] = tensor.to(torch.bfloat16)
        else:
            tensors[name] = tensor.detach().clone()
    probe = tuple(i * 7919 % model.c.vocab_size for i in range(min(48, model.c.max_position_embeddings)))
    reference = Transformer(model.c).to(model.device)
    load(reference, tensors, precision)
    return Published(version, precision, tensors, digests(tensors), probe, probe_logprobs(reference, probe))


def accept(model: Transformer, weights: Published) -> None:
    """Loads ``weights`` into an engine's model and checks digest and log-probabilities. Raises PublishError."""
    arrived = digests(weights.tensors)
    for name in weights.digests:
        if arrived.get(name) != weights.digests[name]:
            raise PublishError(
                f"weight version {weights.version}: tensor {name} differs from what the trainer sent; no rollout was "
                "started. Restart the run with --resume; if it comes back, check the memory or the network of this host"
            )
    load(model, weights.tensors, weights.precision)
    got = probe_logprobs(model, weights.probe)
    gap = max((abs(a - b) for a, b in zip(got, weights.probe_logprobs, strict=True)), default=0.0)
    if not gap <= PROBE_TOLERANCE:
        raise PublishError(
            f"weight version {weights.version}: the bytes arrived, but the engine's log-probabilities of the fixed "
            f"prompt differ from the trainer's by up to {gap:.3g} (tolerance {PROBE_TOLERANCE:g}); no rollout was "
            "started"
        )


PROBE_TOLERANCE = 1e-3
"""Nats. The same modules on the same weights differ by rounding alone, as between two kinds of processor."""


def load(model: Transformer, tensors: Mapping[str, Tensor], precision: Precision) -> None:
    """Sets the weights in place, FP8 ones to what they decode to. Raises PublishError naming a tensor that the model
    lacks or does not expect."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("mtp.")}
    given = {name for name in tensors if not name.endswith(SCALE)}
    if given != set(state):
        raise PublishError(f"published tensors do not fit the engine's model: {sorted(given ^ set(state))[0]}")
    with torch.no_grad():
        for name, target in state.items():
            value = tensors[name]
            if name + SCALE in tensors:
                value = fp8.dequantize_blocks(fp8.Quantized(value, tensors[name + SCALE]))
            target.copy_(value)
    model.use(precision)
    set_rounded(model, precision == "fp8")


@torch.no_grad()
def probe_logprobs(model: Transformer, probe: tuple[int, ...]) -> tuple[float, ...]:
    tokens = torch.tensor(probe, device=model.device)
    hidden = model(tokens, Segments.of([len(probe)], model.device)).hidden[:-1]
    logp = model.logits(hidden).log_softmax(-1).gather(-1, tokens[1:, None])
    return tuple(logp.squeeze(-1).tolist())


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: hashlib.blake2b(_bytes(t), digest_size=16).hexdigest() for name, t in tensors.items()}
