from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from jobs.cluster import Cluster

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("GOMP_SPINCOUNT", "50000")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


TOGETHER = ("cluster", "vllm")
"""Files with tests of one of these markers go to one process when there are several (`-n 2`): with one Ray at a time,
and an engine of vLLM for all. They take longest and come first."""


@functools.cache
def group_of(path: str) -> str:
    """Read from the file's text: the process that deals out tests knows their names alone."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return next((marker for marker in TOGETHER if f"pytest.mark.{marker}" in text), path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        group = group_of(item.nodeid.partition("::")[0])
        return [*TOGETHER, group].index(group)

    items.sort(key=place)


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


RAY = contextlib.ExitStack()
"""What ends the Ray of this process."""


@pytest.fixture(scope="session")
def only_ray() -> Cluster:
    """One Ray for all tests that need one in this process: it takes ten seconds of computing to start and to end."""
    from jobs import cluster

    return RAY.enter_context(cluster.connect(None, 4))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Behind the files that have it, Ray would only take from others."""
    if group_of(item.nodeid.partition("::")[0]) != "cluster":
        RAY.close()


def pytest_sessionfinish() -> None:
    RAY.close()


@pytest.fixture
def local(only_ray: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A Ray that has nothing placed on it, and is left so."""
    import ray

    from jobs import cluster

    placed: weakref.WeakSet[Any] = weakref.WeakSet()  # an actor whose last handle goes ends

    def place(*arguments: Any, _place: Any = cluster._place, **options: Any) -> Any:
        placed.add(actor := _place(*arguments, **options))
        return actor

    monkeypatch.setattr(cluster, "_place", place)
    yield only_ray
    for actor in list(placed):
        ray.kill(actor)


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
