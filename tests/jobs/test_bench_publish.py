from __future__ import annotations

from functools import partial

import pytest

from jobs.bench import publish, publishes
from jobs.config import RecipeError, precisions_of
from model.digest import digests
from model.transformer import build
from tests.fakes import TINY

WAYS: dict[str, publish.Way] = {
    "in process": publish.in_process,
    "shared memory": partial(publish.two_processes, broadcast=False),
    "broadcast": partial(publish.two_processes, broadcast=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_publish_is_timed_with_its_proof_and_without(way: str) -> None:
    given: list[bool] = []
    with WAYS[way](build(TINY, 0), "fp8") as once:

        def watched(proof: bool) -> tuple[publish.Times, int]:
            given.append(proof)
            return once(proof)

        row = publish.timed(watched, repeats=2)
    assert given == [True, False] * 3
    assert row["seconds"] == row["seconds_trainer"] + row["seconds_engine"]
    assert row["cpu_seconds"] > 0
    assert row["proof_share"] == pytest.approx(1 - row["seconds_without_proof"] / row["seconds"])
    assert row["bytes"] == pytest.approx(row["bytes_per_second"] * row["seconds"])
    weights = sum(p.numel() for p in build(TINY, 0).parameters())
    assert weights < row["bytes"] < 4 * weights
    assert all(seconds > 0 for seconds in publish.copied(row["bytes"], 1, "cpu", "cpu").values())


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(RecipeError, match="--precisions"):
        precisions_of("fp32,fp16")
    with pytest.raises(RecipeError, match="native, vllm"):
        publishes.run_soak(1, "other")


@pytest.mark.cluster
@pytest.mark.slow
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
    assert last["object_store_mb"] < 10
    assert last["folders_in_memory"] == 0


def test_the_models_differ_where_a_tensor_does() -> None:
    """What the comparison at the end of a soak rests on."""
    model, other = build(TINY, 0), build(TINY, 0)
    assert digests(model.state_dict()) == digests(other.state_dict())
    other.lm_head.weight.data.view(-1)[3] += 1e-3
    ours, theirs = digests(model.state_dict()), digests(other.state_dict())
    assert {name for name in ours if ours[name] != theirs[name]} == {"lm_head.weight"}
