from __future__ import annotations

from types import ModuleType

import pytest
import torch

pytest.importorskip("triton", reason="Triton's wheels are for Linux")
from model.fp8 import Quantized
from model.kernels import products


@pytest.mark.parametrize(
    ("shape", "asked"), [((1, 4096, 512), False), ((16, 256, 256), False), ((64, 1024, 2048), True)]
)
def test_a_small_model_does_not_wait_for_deepgemm_s_compiler(
    shape: tuple[int, int, int], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = ModuleType("deep_gemm")
    monkeypatch.setattr(products, "deep_gemm", lambda: there)
    w = Quantized(torch.empty(shape, dtype=torch.float8_e4m3fn, device="meta"), torch.empty(0))
    assert (products.library_for(w) is there) == asked
