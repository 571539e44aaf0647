"""AdamW (arXiv:1711.05101) with its two moments in BF16 beside FP32 weights and gradients, as DeepSeek-V3 was trained
(report, section 3.3.3): 12 instead of 16 bytes a weight. A moment is rounded after the update that used it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from model import derived


class AdamW(torch.optim.Optimizer):
    """Takes the parameter groups of `torch.optim.AdamW`, in which ``grad_scale`` is what gradients are multiplied by as
    they are read. Parameters without a gradient stay as they are."""

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float, betas: tuple[float, float],
        weight_decay: float = 0.0, eps: float = 1e-8,
    ) -> None:  # fmt: skip
        settings = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps, "grad_scale": 1.0}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(p, dtype=torch.bfloat16)
                    state["exp_avg_sq"] = torch.zeros_like(p, dtype=torch.bfloat16)
                state["step"] += 1
                _update(p, p.grad, state, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # which gives every state the dtype of its parameter
        for state in self.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].to(torch.bfloat16)


def _update(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    names = ("lr", "betas", "eps", "weight_decay", "grad_scale")
    lr, (beta1, beta2), eps, decay, scale = (group[name] for name in names)
    m, v, step = state["exp_avg"], state["exp_avg_sq"], state["step"]
    if p.is_cuda:
        from model.kernels.adamw import adamw
        from model.kernels.quantize import Weights

        kept = derived.kept(p)
        blocks = kept if isinstance(kept, Weights) else None
        adamw(p, g, m, v, lr=lr, beta1=beta1, beta2=beta2, eps=eps, decay=decay, step=step, scale=scale, blocks=blocks)
        if blocks is not None:
            derived.renewed(p)
        return
    g = g * scale
    first = m.float().mul_(beta1).add_(g, alpha=1 - beta1)
    second = v.float().mul_(beta2).addcmul_(g, g, value=1 - beta2)
    bottom = second.sqrt().mul_((1 - beta2**step) ** -0.5).add_(eps)
    p.mul_(1 - lr * decay).addcdiv_(first, bottom, value=-lr / (1 - beta1**step))
    m.copy_(first)
    v.copy_(second)
