from __future__ import annotations

import random

import pytest

from model.placement import PlacementError, Site, gpu_loads, imbalance, in_order, place, site


def skewed(experts: int, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [1000 / (1 + rank) ** 0.7 for rank in rng.sample(range(experts), experts)]


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_every_expert_has_a_place_and_every_slot_an_expert(nodes: int) -> None:
    at = site(64, gpus=16, nodes=nodes, redundant=16)
    placement = place(skewed(64), at, groups=8)
    assert [len(gpu) for gpu in placement] == [5] * 16
    assert {expert for gpu in placement for expert in gpu} == set(range(64))


def test_copies_and_packing_balance_what_order_does_not() -> None:
    for seed in range(5):
        load = skewed(256, seed)
        before = imbalance(gpu_loads(in_order(256, 32), load))
        packed = imbalance(gpu_loads(place(load, site(256, 32, 4, 0)), load))
        copied = imbalance(gpu_loads(place(load, site(256, 32, 4, 32)), load))
        assert copied < packed < before
        assert copied < 1.05 < 1.5 < before


def test_groups_stay_on_one_node() -> None:
    placement = place(skewed(64), site(64, gpus=8, nodes=4, redundant=8), groups=8)
    nodes = [{expert // 8 for gpu in placement[2 * n : 2 * n + 2] for expert in gpu} for n in range(4)]
    assert [len(groups) for groups in nodes] == [2, 2, 2, 2]
    assert set.union(*nodes) == set(range(8))


def test_no_load_is_lost_to_copies() -> None:
    load = skewed(64)
    loads = gpu_loads(place(load, site(64, 8, 1, 24)), load)
    assert abs(sum(loads) - sum(load)) < 1e-6


def test_a_gpu_holds_an_expert_once_where_it_can() -> None:
    placement = place([100.0, *[1.0] * 7], Site(1, 4, 3))
    assert all(len(set(gpu)) == len(gpu) for gpu in placement)
    assert sum(0 in gpu for gpu in placement) == 4


@pytest.mark.parametrize(
    ("arguments", "word"),
    [((64, 6, 4, 0), "divide over 4 nodes"), ((64, 16, 2, 8), "16 copies would"), ((63, 8, 1, 0), "1 copies would")],
)
def test_what_does_not_divide_is_refused_with_what_would(arguments: tuple[int, int, int, int], word: str) -> None:
    with pytest.raises(PlacementError, match=word):
        site(*arguments)


def test_more_copies_than_gpus_can_use_are_refused() -> None:
    with pytest.raises(PlacementError, match="more than 2 GPUs can use"):
        place([1.0, 1.0], Site(1, 2, 3))


def test_no_load_at_all_is_balanced() -> None:
    assert imbalance([0.0, 0.0]) == 1.0
