"""Work on memory that stays where it is: it runs, is recorded, and is replayed. A recording is played here by doing the
same again with what it was recorded with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.replayed import KEPT, Replayed


class Tape:
    """As `model.replayed.Recorder`: to record does nothing yet."""

    recorded = 0

    def record(self, work: Callable[[], object]) -> Callable[[], None]:
        self.recorded += 1

        def replay() -> None:
            work()

        return replay


def doubling(runs: list[float]) -> Callable[..., Any]:
    def work(x: Tensor) -> tuple[Tensor]:
        runs.append(float(x))
        return (2 * x,)

    return lambda x: work


def test_it_runs_first_is_recorded_next_and_then_replayed_on_the_memory_of_the_recording() -> None:
    tape, runs = Tape(), list[float]()
    replayed = Replayed(doubling(runs), tape)  # type: ignore[arg-type]
    x = torch.tensor(1.0)
    results = []
    for value in (1.0, 2.0, 3.0):
        x.fill_(value)
        (out,) = replayed("here", x)
        results.append((float(out), tape.recorded, out.data_ptr()))
    assert [result[:2] for result in results] == [(2.0, 0), (4.0, 1), (6.0, 1)]
    assert len({place for *_, place in results}) == 1
    assert float(replayed("here", torch.tensor(50.0))[0]) == 6.0


def test_other_addresses_are_other_work_and_the_oldest_are_forgotten() -> None:
    tape, runs = Tape(), list[float]()
    replayed = Replayed(doubling(runs), tape)  # type: ignore[arg-type]
    places = [torch.tensor(float(i)) for i in range(KEPT + 1)]
    for _ in range(2):
        for place in places[:KEPT]:
            assert float(replayed(place.data_ptr(), place)[0]) == 2 * float(place)
    assert tape.recorded == KEPT
    replayed(places[KEPT].data_ptr(), places[KEPT])
    for place in places:
        assert float(replayed(place.data_ptr(), place)[0]) == 2 * float(place)
    assert len(replayed.met) == KEPT


def test_without_a_recorder_it_just_runs() -> None:
    runs: list[float] = []
    replayed = Replayed(doubling(runs), None)
    assert [float(replayed("here", torch.tensor(x))[0]) for x in (1.0, 2.0, 3.0)] == [2.0, 4.0, 6.0]
    assert runs == [1.0, 2.0, 3.0]
