from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.engine import Completion
from rl.batch import Aggregation, MicroBatch, pack
from rl.rollout import Group
from tests.rl.makers import completion, group

LENGTHS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=5)


def groups_of(lengths: list[list[int]]) -> list[Group]:
    return [
        group([[10 + j] * n for j, n in enumerate(sizes)], [1.0] * len(sizes), name=str(i))
        for i, sizes in enumerate(lengths)
    ]


def weights(batch: list[MicroBatch]) -> float:
    return sum(float(micro.weights.sum()) for micro in batch)


@given(LENGTHS, st.integers(1, 40), st.sampled_from(["token", "sequence"]))
def test_weights_sum_to_one_however_the_batch_is_split(lengths: list[list[int]], limit: int, by: Aggregation) -> None:
    (batch,) = pack(groups_of(lengths), max_tokens=limit, minibatches=1, by=by)
    assert weights(batch) == pytest.approx(1, abs=1e-5)


@given(LENGTHS, st.integers(1, 40), st.integers(1, 4), st.integers(1, 3))
def test_processes_share_a_batch_without_rest(
    lengths: list[list[int]], limit: int, ranks: int, minibatches: int
) -> None:
    made = groups_of(lengths)
    parts = [
        pack(made, max_tokens=limit, minibatches=minibatches, by="token", rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    whole = pack(made, max_tokens=limit, minibatches=minibatches, by="token")
    for minis in zip(whole, *parts, strict=True):
        alone, *shared = (sorted(float(w) for micro in mini for w in micro.weights) for mini in minis)
        assert sorted(w for part in shared for w in part) == alone


def test_processes_have_about_equal_numbers_of_tokens() -> None:
    made = groups_of([[n] for n in range(1, 40)])
    sizes = [
        sum(len(micro.tokens) for micro in pack(made, max_tokens=50, minibatches=1, by="token", rank=r, ranks=4)[0])
        for r in range(4)
    ]
    assert max(sizes) - min(sizes) < 0.05 * sum(sizes)


@given(LENGTHS, st.integers(12, 40))
def test_a_micro_batch_holds_at_most_its_tokens(lengths: list[list[int]], limit: int) -> None:
    (batch,) = pack(groups_of(lengths), max_tokens=limit, minibatches=1, by="token")
    assert all(len(micro.tokens) <= limit for micro in batch)
    assert all(len(micro.segments.ids) == len(micro.tokens) for micro in batch)


@given(LENGTHS, st.integers(1, 40))
def test_every_sampled_token_is_predicted_once_from_the_token_before_it(lengths: list[list[int]], limit: int) -> None:
    made = groups_of(lengths)
    (batch,) = pack(made, max_tokens=limit, minibatches=1, by="token")
    expected = sorted(
        (before, target)
        for g in made
        for c in g.completions
        for before, target in zip((*g.prompt_ids[-1:], *c.token_ids[:-1]), c.token_ids, strict=True)
    )
    found = sorted(
        (int(micro.tokens[at]), int(target))
        for micro in batch
        for at, target in zip(micro.at, micro.targets, strict=True)
    )
    assert found == expected


@given(LENGTHS, st.integers(1, 40))
def test_every_row_is_a_prompt_and_its_completion(lengths: list[list[int]], limit: int) -> None:
    made = groups_of(lengths)
    (batch,) = pack(made, max_tokens=limit, minibatches=1, by="token")
    expected = sorted((*g.prompt_ids, *c.token_ids[:-1]) for g in made for c in g.completions)
    found = []
    for micro in batch:
        rows = micro.tokens[micro.segments.source].view(-1, micro.segments.longest).tolist()
        found += [tuple(row[:n]) for row, n in zip(rows, micro.segments.lengths, strict=True)]
    assert sorted(found) == expected


def test_a_prompt_is_laid_down_once() -> None:
    ((micro,),) = pack([group([[7] * 4] * 3, [1.0, 0.0, 1.0])], max_tokens=100, minibatches=1, by="token")
    assert len(micro.tokens) == 2 + 3 * 3


def test_token_weights_are_equal_and_sequence_weights_are_equal_by_sequence() -> None:
    made = [group([[1] * 2, [2] * 8], [1.0, -1.0])]
    ((by_token,),) = pack(made, max_tokens=100, minibatches=1, by="token")
    assert by_token.weights.tolist() == pytest.approx([0.1] * 10)
    ((by_sequence,),) = pack(made, max_tokens=100, minibatches=1, by="sequence")
    assert sorted(set(by_sequence.weights.tolist())) == pytest.approx([1 / 16, 1 / 4])


def test_samples_without_advantage_are_left_out() -> None:
    ((micro,),) = pack([group([[1, 1], [2, 2]], [1.0, None])], max_tokens=100, minibatches=1, by="token")
    assert micro.targets.tolist() == [1, 1]
    assert pack([group([[1]], [None])], max_tokens=10, minibatches=1, by="token") == []


def test_minibatches_split_whole_groups_and_weigh_each_alone() -> None:
    batches = pack(groups_of([[3, 3], [5], [2, 2]]), max_tokens=100, minibatches=2, by="token")
    assert len(batches) == 2
    assert [weights(b) for b in batches] == pytest.approx([1, 1], abs=1e-5)
    assert [sum(len(m.targets) for m in b) for b in batches] == [11, 4]


def test_routes_lie_beside_their_tokens_and_a_prompt_has_those_of_its_first_completion() -> None:
    def routed(ids: list[int], first: int) -> Completion:
        rows = np.arange(first, first + 2 + len(ids) - 1, dtype=np.int16).reshape(-1, 1, 1)
        return replace(completion(ids), routes=rows)

    made = group([[5, 6, 7], [8, 9], [5, 5]], [1.0, 2.0, 3.0])
    told = replace(made, completions=(routed([5, 6, 7], 10), routed([8, 9], 20), completion([5, 5])))
    ((micro,),) = pack([told], max_tokens=99, minibatches=1, by="token")
    assert micro.routes is not None
    assert micro.routes.flatten().tolist() == [10, 11, 12, 13, 22, -1]
    assert micro.sequences.tolist() == [0, 0, 0, 1, 1, 2, 2]
    ((untold,),) = pack([made], max_tokens=99, minibatches=1, by="token")
    assert untold.routes is None
