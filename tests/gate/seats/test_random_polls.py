"""The random model of polled seats and streams, with few runs of each story; ``random_polls`` runs it more often."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from gate.doubles import pass_time, run
from gate.seats.random_polls import (
    Model,
    Story,
    a_cut,
    a_kill,
    a_newcomer_first,
    an_empty_table,
    an_outage,
    clock_steps,
    comings_and_goings,
)
from gate.seats.test_polled import G, M, Stream


@pytest.mark.parametrize(
    ("story", "seed"),
    [
        (comings_and_goings, 0),
        (a_kill, 1),
        (a_cut, 2),
        (clock_steps, 3),
        (an_outage, 4),
        (an_empty_table, 5),
        (a_newcomer_first, 6),
    ],
)
def test_no_seat_is_taken_twice(story: Story, seed: int) -> None:
    """Whatever happens to workers, to the capacity and to the store, seats taken never grow beyond the capacity."""
    model = run(Model(seed, capacity=50, crowd=2.0, streams=0.4).plays(story))
    assert model.most_over == 0
    if model.watched:
        assert sum(model.watched) / len(model.watched) >= 0.8


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("is_lost", [False, True])
def test_the_first_worker_back_takes_no_seats_of_the_others(is_lost: bool, number: int) -> None:
    """After an outage many want in at a worker with few listeners, which may be the first to report: those of the
    others keep their seats.
    """

    async def story(model: Model, stack: AsyncExitStack) -> None:
        first = model.nodes[number]
        for worker in (first, *(one for one in model.nodes if one is not first)):
            for _ in range(15):
                model.listeners.append(Stream(M, len(model.listeners)))
                assert model.listeners[-1].comes_to(worker)
        for listener in model.listeners[:13]:
            assert listener.seat is not None
            first.entrance.seats.release(listener.seat)
        model.store.is_away = True
        await pass_time(20.0)
        if is_lost:
            model.store._seats = type(model.store._seats)()
        model.store.is_away = False
        del model.listeners[:13]
        for _ in range(600):
            model.listeners.append(Stream(G, 1000 + len(model.listeners)))
            model.listeners[-1].comes_to(first)
            await pass_time(0.01)
            assert sum(len(list(worker.entrance.seats.ledger)) for worker in model.nodes) <= 45
        assert sum(len(list(worker.entrance.seats.ledger)) for worker in model.nodes) == 45

    run(Model(1, capacity=45, crowd=0.0).plays(story))
