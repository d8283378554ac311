"""The desk of an admin process: its status follows the mode."""

from __future__ import annotations

from gate.doubles import pass_time, run
from shieldmw import Settings
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.overrides import Overrides
from shieldmw.core.seats import Capacity, Fleet
from shieldmw.gate.operator.desk import LOOK_S
from shieldmw.store.memory import MemoryStore
from shieldmw.wiring import build_desk, build_worker


class CountingStore(MemoryStore):
    """Counts how often the fleet's seats are read."""

    looks = 0

    async def fleet(self, now_s: float) -> Fleet:
        """The fleet."""
        self.looks += 1
        return await super().fleet(now_s)


def test_seats_are_read_again_as_soon_as_the_mode_has_changed() -> None:
    """An operator who cuts the capacity sees the numbers that follow from it, not those of a second ago."""

    async def story() -> None:
        store = CountingStore(b"fleet")
        desk = build_desk(Settings(capacity=10), store)
        await desk.start()
        await pass_time(0.3 * LOOK_S)
        assert store.looks == 1
        await desk.control.set_mode(ModeChange(Mode.EMERGENCY, "operator", "attack"), None)
        await pass_time(0.1 * LOOK_S)
        assert store.looks == 2
        await desk.stop()

    run(story())


def test_limits_are_changed_and_followed() -> None:
    """Here and by a worker: both desks and the seats of the status have them."""

    async def story() -> None:
        store = CountingStore(b"fleet")
        desk, worker = build_desk(Settings(capacity=10), store), build_worker(Settings(capacity=10), store)
        await desk.start()
        change = Overrides({"SHIELD_CAPACITY": 7})
        await worker.control.set_limits(change, actor="ops", reason="", for_s=None, expected_version=None)
        await pass_time(1.1)
        status = await desk.control.status()
        assert status.seats.capacity == Capacity(7, 7)
        assert status.settings["SHIELD_CAPACITY"] == "7"
        change = Overrides({"SHIELD_CAPACITY": 8})
        assert await desk.control.set_limits(change, actor="ops", reason="", for_s=None, expected_version=1)
        report = await worker.control.limits()
        assert (report.in_force["SHIELD_CAPACITY"], report.configured["SHIELD_CAPACITY"]) == ("8", "10")
        assert worker.entrance.seats.capacity() == Capacity(8, 8)
        await desk.stop()

    run(story())
