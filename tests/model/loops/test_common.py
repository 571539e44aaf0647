from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import torch
from model import compiled_training
torch.manual_seed(0)
x, weight = torch.randn(37, 150, requires_grad=True), torch.randn(150, requires_grad=True)
total, normed = compiled_training.add_norm(x, x * 0.3, weight, 1e-6)
out = compiled_training.swiglu(normed, None, None)
grads = torch.autograd.grad((out * out).sum() + total.sum(), (x, weight))
print([t.detach().double().flatten().tolist() for t in (total, normed, out, *grads)])
"""


def test_code_that_was_kept_computes_the_bits_of_code_just_compiled(tmp_path: Path) -> None:
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", PROGRAM], env=env, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc"))
    assert len(first) > 1000
    assert first == second
