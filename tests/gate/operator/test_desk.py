"""The desk of an admin process: its status follows the mode."""

from __future__ import annotations

from gate.doubles import pass_time, run
from shieldmw import Settings
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.seats import Fleet
from shieldmw.gate.operator.desk import LOOK_S
from shieldmw.store.memory import MemoryStore
from shieldmw.wiring import build_desk


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
