from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("GOMP_SPINCOUNT", "50000")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@cache
def group_of(path: str) -> str:
    """With several processes (`-n 2`) tests of a file go to one of them, and so do all files of which some test starts
    Ray, and all that use vLLM: one Ray at a time, and an engine of vLLM for all. These take longest and come first."""
    text = (Path(__file__).parents[1] / path).read_text()
    return next((name for name in ("cluster", "vllm") if f"pytest.mark.{name}" in text), path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {"cluster": 0, "vllm": 1}
    items.sort(key=lambda item: order.get(group_of(item.nodeid.partition("::")[0]), 2))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0])

    config.option.loadscopereorder = False
    return ByGroup(config, log)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real problems beside the checkout; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real problems in {folder}, which is absent")
    return folder


@pytest.fixture(scope="session")
def vllm_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One vLLM for all tests, in fp32, of a tiny policy's shape with `LOADABLE`: it takes half a minute to start."""
    pytest.importorskip("vllm", reason="needs vLLM")
    from model import checkpoint
    from model.vllm_engine import VllmEngine
    from tests.fakes import LOADABLE, tiny_policy

    folder, policy = tmp_path_factory.mktemp("vllm"), tiny_policy(**LOADABLE)
    checkpoint.save(policy.model, policy.tokenizer, folder)
    engine = VllmEngine(folder, "fp32", max_rows=64)
    yield engine
    asyncio.run(engine.close())
