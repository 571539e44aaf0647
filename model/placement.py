"""Which GPU holds which expert, from measured load: copies of the busiest experts, then GPUs with equal load
(DeepSeek-V3 report, sections 3.4.1 and 3.4.2).

Where groups of experts divide over the nodes, each group stays on one node: a token that is limited to a few groups
then reaches few nodes. Within a node (or, where groups do not divide, in all), the slots that are left over go one by
one to the expert with the most tokens a copy, and the copies go, busiest first, to the GPU with the least load that has
a slot. A token's copy of an expert is any of them, so each copy carries an equal share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Placement = list[list[int]]
"""The experts of each GPU; GPUs of one node lie together."""


class PlacementError(ValueError):
    """Experts that these GPUs cannot hold."""

    exit_status = 2


@dataclass(frozen=True)
class Site:
    """``nodes`` x ``gpus`` GPUs with ``slots`` experts each."""

    nodes: int
    gpus: int
    slots: int


def site(experts: int, gpus: int, nodes: int, redundant: int) -> Site:
    """The site of ``experts`` and ``redundant`` copies on ``gpus`` GPUs in all. Raises PlacementError."""
    if gpus % nodes:
        raise PlacementError(f"{gpus} GPUs do not divide over {nodes} nodes")
    if (experts + redundant) % gpus:
        near = gpus - (experts + redundant) % gpus + redundant
        raise PlacementError(
            f"{experts} experts and {redundant} copies do not divide over {gpus} GPUs; {near} copies would"
        )
    return Site(nodes, gpus // nodes, (experts + redundant) // gpus)


def in_order(experts: int, gpus: int) -> Placement:
    """Without copies, experts as they are numbered: what needs no plan. The last GPUs may hold fewer."""
    size = -(-experts // gpus)
    return [list(range(experts))[start * size : (start + 1) * size] for start in range(gpus)]


def place(load: Sequence[float], at: Site, groups: int = 1) -> Placement:
    """Every expert at least once, as balanced as the greedy rules make it. ``load`` [E]: tokens an expert."""
    if groups % at.nodes == 0 and groups >= at.nodes and len(load) % groups == 0:
        nodes = _groups_to_nodes(load, groups, at.nodes)
        return [gpu for experts in nodes for gpu in _within(load, experts, at.gpus, at.slots)]
    return _within(load, range(len(load)), at.nodes * at.gpus, at.slots)


def gpu_loads(placement: Placement, load: Sequence[float]) -> list[float]:
    """The tokens of each GPU, an expert's shared equally by its copies."""
    copies = [0] * len(load)
    for gpu in placement:
        for expert in gpu:
            copies[expert] += 1
    return [sum(load[expert] / copies[expert] for expert in gpu) for gpu in placement]


def imbalance(loads: Sequence[float]) -> float:
    """The busiest over the mean: 1 is balanced, and what all wait for."""
    return max(loads) * len(loads) / sum(loads) if sum(loads) else 1.0


def _groups_to_nodes(load: Sequence[float], groups: int, nodes: int) -> list[list[int]]:
    size = len(load) // groups
    members = [list(range(g * size, (g + 1) * size)) for g in range(groups)]
    packed = _pack([sum(load[e] for e in experts) for experts in members], nodes, groups // nodes)
    return [[expert for g in chosen for expert in members[g]] for chosen in packed]


def _within(load: Sequence[float], experts: Sequence[int], gpus: int, slots: int) -> Placement:
    if len(experts) > gpus * slots:
        raise PlacementError(f"{len(experts)} experts do not fit into {gpus} x {slots} slots")
    copies = dict.fromkeys(experts, 1)
    for _ in range(gpus * slots - len(experts)):
        busiest = max((e for e in experts if copies[e] < gpus), key=lambda e: load[e] / copies[e], default=None)
        if busiest is None:
            raise PlacementError(f"{gpus * slots - len(experts)} copies are more than {gpus} GPUs can use")
        copies[busiest] += 1
    items = [expert for expert in experts for _ in range(copies[expert])]
    packed = _pack([load[expert] / copies[expert] for expert in items], gpus, slots, items)
    return [sorted(items[i] for i in chosen) for chosen in packed]


def _pack(weights: Sequence[float], bins: int, slots: int, kinds: Sequence[int] | None = None) -> list[list[int]]:
    """Indices of ``weights`` in ``bins`` of ``slots``, heaviest first into the lightest bin; where it can, no bin
    twice of one kind."""
    chosen: list[list[int]] = [[] for _ in range(bins)]
    total = [0.0] * bins
    for i in sorted(range(len(weights)), key=lambda i: -weights[i]):
        free = [b for b in range(bins) if len(chosen[b]) < slots]
        apart = [b for b in free if kinds is None or all(kinds[j] != kinds[i] for j in chosen[b])]
        lightest = min(apart or free, key=lambda b: total[b])
        chosen[lightest].append(i)
        total[lightest] += weights[i]
    return chosen
