from __future__ import annotations

from functools import partial

import pytest
import torch

from jobs.bench import publish, publishes
from jobs.config import RecipeError, precisions_of
from model.transformer import build
from tests.fakes import TINY

WAYS: dict[str, publish.Way] = {
    "in process": publish.in_process,
    "shared memory": partial(publish.two_processes, broadcast=False),
    "broadcast": partial(publish.two_processes, broadcast=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_publish_is_timed_with_its_proof_and_without(way: str) -> None:
    given: list[publish.Checks] = []
    with WAYS[way](build(TINY, 0), "fp8") as once:

        def watched(checks: publish.Checks) -> tuple[publish.Times, int]:
            given.append(checks)
            return once(checks)

        row = publish.timed(watched, repeats=2)
    assert given == [*publish.LEFT_OUT.values()] * 3
    assert row["cpu_seconds"] > 0
    assert row["proof_share"] == pytest.approx(1 - row["seconds_without_proof"] / row["seconds"])
    assert row["bytes"] == pytest.approx(row["bytes_per_second"] * row["seconds"])
    weights = sum(p.numel() for p in build(TINY, 0).parameters())
    assert weights < row["bytes"] < 4 * weights
    assert all(seconds > 0 for seconds in publish.copied(row["bytes"], 1, "cpu", "cpu").values())


def test_what_a_check_costs_is_what_is_saved_without_it() -> None:
    costs = {"digests": 1.0, "probe": 4.0}

    def publishing(checks: publish.Checks) -> tuple[publish.Times, int]:
        clock = 16.0 + sum(costs[check] for check in checks)
        return publish.Times(clock, 2 * clock), 1

    row = publish.timed(publishing, repeats=1)
    assert row["saved"] == costs
    assert row["proof_share"] == pytest.approx(5 / 21)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(RecipeError, match="--precisions"):
        precisions_of("fp32,fp16")
    with pytest.raises(RecipeError, match="native, vllm"):
        publishes.run_soak(1, "other")


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("on_local")
def test_fifty_publishes_leak_nothing_and_drift_nowhere() -> None:
    found = publishes.run_soak(50, "native")
    assert found["weights_changed"] == 5
    assert found["samples_that_differ_under_equal_weights"] == 0
    assert found["logprob_drift_under_equal_weights"] == 0
    assert found["tensors_that_differ_at_the_end"] == 0
    first, last = found["usage"][4], found["usage"][-1]
    for process in ("driver", "trainer", "engine"):
        assert last[process]["rss_mb"] < first[process]["rss_mb"] + 20
        assert last[process]["files"] <= first[process]["files"] + 3
    assert last["object_store_mb"] <= first["object_store_mb"] + 0.1
    assert last["object_store_mb"] < 10
    assert last["folders_in_memory"] == 0


def test_the_models_differ_where_a_tensor_does() -> None:
    """What the comparison at the end of a soak rests on."""
    model, other = build(TINY, 0), build(TINY, 0)
    assert torch.equal(publishes.hashes_of(model), publishes.hashes_of(other))
    other.lm_head.weight.data.view(-1)[3] += 1e-3
    differ = (publishes.hashes_of(model) != publishes.hashes_of(other)).any(1).tolist()
    assert [name for name, other in zip(model.state_dict(), differ, strict=True) if other] == ["lm_head.weight"]
