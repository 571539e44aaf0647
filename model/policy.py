"""What is trained: the model, its optimizer, its frozen reference, and the one place that knows about accelerate."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from model import checkpoint, derived, moe, publish
from model.config import Precision
from model.dispatch import has_triton
from model.loss import token_logprobs
from model.optimizer import AdamW
from model.parts import Part
from model.publish import USUAL, Published, PublishSettings
from model.ranks import Alone
from model.segments import Segments
from model.tokenizer import Tokenizer
from model.transformer import Transformer

if TYPE_CHECKING:
    from model.exact import Exact


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW, with ``moments`` in FP32 or BF16. ``lr`` is reached after ``warmup_steps`` and, if ``decay_steps`` is not
    0, falls along a cosine to ``lr_floor`` x lr at that step. ``bias_speed`` is gamma, the step of the routing bias."""

    lr: float = 1e-4
    warmup_steps: int = 0
    decay_steps: int = 0
    lr_floor: float = 0.1
    weight_decay: float = 0.0
    beta2: float = 0.95
    clip_norm: float = 1.0
    bias_speed: float = 1e-3
    moments: Literal["fp32", "bf16"] = "fp32"

    def lr_at(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if not self.decay_steps:
            return self.lr
        done = min(1.0, (step - self.warmup_steps) / max(1, self.decay_steps - self.warmup_steps))
        return self.lr * (self.lr_floor + (1 - self.lr_floor) * 0.5 * (1 + math.cos(math.pi * done)))


class Forward(NamedTuple):
    """Log-probabilities [M] FP32 of the targets, entropies [M] in nats, and each MoE layer's routing."""

    logp: Tensor
    entropy: Tensor
    routing: list[moe.Routing]


def _optimizer(model: Transformer, settings: OptimizerSettings) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if settings.moments == "bf16":
        return AdamW(groups, lr=settings.lr, betas=(0.9, settings.beta2))
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, settings.beta2), fused=True)


class PolicyError(ValueError):
    """A policy that cannot be had as asked for."""

    exit_status = 2


def _exact(model: Transformer, precision: Precision) -> Exact:
    reason = "there is no CUDA device" if model.device.type != "cuda" else None if has_triton() else "triton is missing"
    if reason is None:
        from model import serving

        reason = serving.unsupported(model.c, precision)
    if reason is not None:
        raise PolicyError(f"log-probabilities equal to the engine's need its GPU kernels, which cannot run: {reason}")
    from model.exact import Exact

    return Exact(model, precision)


class Policy:
    """A model in training. ``updates`` counts optimizer steps; the weight version that is published is theirs.
    ``weights`` is held while a step changes them and while a publish reads them, which may be in another thread.
    ``ranks``: the processes that train the same weights."""

    ranks = Alone()

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        settings: OptimizerSettings,
        precision: Precision = "fp32",
        *,
        recompute: bool = False,
        exact: Precision | None = None,
    ) -> None:
        """``recompute`` keeps only each block's input for the backward pass and computes the rest again. ``exact``
        names the precision of a native engine on a GPU whose log-probabilities the forward pass is to give to the bit
        (`model.exact`). Raises PolicyError where it cannot."""
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        model.to(self.accelerator.device).use(precision, recompute=recompute)
        self.tokenizer, self.settings = tokenizer, settings
        self.wrapped, self.optimizer = self.accelerator.prepare(model, _optimizer(model, settings))
        self.model: Transformer = self.accelerator.unwrap_model(self.wrapped)
        self.reference: Transformer | None = None
        self.updates = 0
        self.weights = threading.RLock()
        routers = self.model.routers()
        shape = len(routers), len(routers[0].weight) if routers else 1
        self.counts = torch.zeros(shape, device=self.model.device)
        self.load = torch.zeros(shape, dtype=torch.int64, device=self.model.device)
        self.exact = None if exact is None else _exact(self.model, exact)

    def forward(
        self,
        tokens: Tensor,
        segments: Segments,
        at: Tensor,
        targets: Tensor,
        temperature: float,
        routes: Tensor | None = None,
    ) -> Forward:
        """tokens [N]; ``at`` [M] says which outputs predict ``targets`` [M]; ``routes`` [N, MoE layers, K] are the
        experts to use, -1 for the router's own choice."""
        device = self.model.device
        if self.exact is not None and routes is None:
            out = self.exact.forward(tokens.to(device), segments.to(device))
            logp, entropy = self.exact.token_logprobs(out.hidden[at.to(device)], targets.to(device), temperature)
            return Forward(logp, entropy, out.routing)
        given = None if routes is None else routes.to(device, torch.int64)
        out = self.wrapped(tokens.to(device), segments.to(device), given)
        logp, entropy = token_logprobs(
            out.hidden[at.to(device)], self.model.head.weight, targets.to(device), temperature
        )
        return Forward(logp, entropy, out.routing)

    @torch.no_grad()
    def reference_logprobs(
        self, tokens: Tensor, segments: Segments, at: Tensor, targets: Tensor, temperature: float
    ) -> Tensor:
        """[M] FP32 under the frozen reference."""
        if self.reference is None:
            raise RuntimeError("the policy keeps no reference; call replace_reference first")
        device = self.model.device
        out = self.reference(tokens.to(device), segments.to(device))
        head = self.reference.head.weight
        return token_logprobs(out.hidden[at.to(device)], head, targets.to(device), temperature)[0]

    def backward(self, loss: Tensor, routing: list[moe.Routing]) -> None:
        """Adds a micro-batch's gradient, and its load to what moves the routing bias."""
        self.accelerator.backward(loss)
        if routing:
            self.counts[: len(routing)] += torch.stack([routed.counts for routed in routing])

    def apply(self) -> dict[str, float]:
        """One optimizer step from the gathered gradients, then the routing bias. A gradient that is not finite is
        dropped and counted, the weights stay."""
        with self.weights:
            return self._apply()

    def _apply(self) -> dict[str, float]:
        lr = self.settings.lr_at(self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.ranks.add_up(self.model.parameters(), self.counts)
        norm = self._clip()
        finite = math.isfinite(norm)
        if finite:
            # Torch does not see what fused kernels write, its own AdamW's neither; what is derived from weights must.
            torch.autograd.graph.increment_version([p for p in self.model.parameters() if p.grad is not None])
            self.optimizer.step()
            derived.refresh()
            routers = [router for router in self.model.routers() if router.c.scoring_func == "sigmoid"]
            if routers:
                biases = [router.e_score_correction_bias for router in routers]
                moe.bias_step(biases, self.counts, self.settings.bias_speed)
        self.optimizer.zero_grad()
        if self.exact is not None:
            self.exact.refresh()
        violations = moe.max_violation(self.counts).tolist()
        load = {f"max_violation/layer_{i}": v for i, v in zip(self.model.c.moe_layers(), violations, strict=True)}
        self.load += self.counts.to(torch.int64)
        self.counts.zero_()
        self.updates += 1
        return {"lr": lr, "grad_norm": norm, "skipped_updates": float(not finite), **load}

    def _clip(self) -> float:
        """The norm of the gradients, which are scaled down to ``clip_norm``: by the optimizer as it reads them where
        that is ours, else in a pass of its own."""
        limit = self.settings.clip_norm
        if not isinstance(self.optimizer.optimizer, AdamW):
            return float(self.accelerator.clip_grad_norm_(self.wrapped.parameters(), limit))
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None]).cpu()
        for group in self.optimizer.param_groups:
            group["grad_scale"] = float((limit / (norm + 1e-6)).clamp(max=1.0))
        return float(norm)

    def take_load(self) -> moe.ExpertLoad:
        """What the updates since the last call trained on, by expert; layers that trained on nothing are left out."""
        taken = {i: load for i, load in zip(self.model.c.moe_layers(), self.load.tolist(), strict=True) if any(load)}
        self.load.zero_()
        return taken

    def replace_reference(self) -> None:
        """Makes the current weights the reference that the KL term is measured from."""
        self.reference = copy.deepcopy(self.model).requires_grad_(False)

    def publish(
        self,
        precision: Precision,
        place: Callable[[Iterable[Part]], Iterable[Part]] = list,
        settings: PublishSettings = USUAL,
    ) -> Published:
        """This version of the weights, as `publish.publish`; ``place`` goes through all parts, since no update may come
        between them."""
        with self.weights:
            return publish.publish(self.model, self.updates, precision, place, settings)

    def save(self, folder: Path) -> None:
        """Writes the weights, and what resuming needs beside them, into an existing folder."""
        self.save_weights(folder)
        state: dict[str, Any] = {
            "updates": self.updates,
            "optimizer": self.optimizer.state_dict(),
            "reference": None if self.reference is None else self.reference.state_dict(),
        }
        torch.save(state, folder / "trainer.pt")

    def restore(self, folder: Path) -> None:
        """Takes weights, optimizer, reference and counters from a folder that `save` wrote."""
        self.load_weights(folder)
        with checkpoint.intact(folder / "trainer.pt"):
            state = torch.load(folder / "trainer.pt", map_location=self.model.device, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = int(state["updates"])
        if state["reference"] is not None:
            self.replace_reference()
            assert self.reference is not None
            self.reference.load_state_dict(state["reference"])

    def save_weights(self, folder: Path) -> None:
        """Writes the model and its tokenizer alone, as a checkpoint that others load."""
        checkpoint.save(self.model, self.tokenizer, folder)

    def load_weights(self, folder: Path) -> None:
        state = checkpoint.load(folder)[0].state_dict()
        there, here = ({n: list(t.shape) for n, t in each.items()} for each in (state, self.model.state_dict()))
        if other := [name for name in {**there, **here} if there.get(name) != here.get(name)]:
            raise PolicyError(
                f"{folder}: its model is another than the recipe's ({other[0]}: {there.get(other[0])} there, "
                f"{here.get(other[0])} here); go on with the recipe that the run was begun with"
            )
        self.model.load_state_dict(state)
        if self.exact is not None:
            self.exact.refresh()
