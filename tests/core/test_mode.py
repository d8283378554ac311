"""The mode as a value: when it ends, and which mode follows."""

from __future__ import annotations

import pytest

from shieldmw.core.mode import Mode, ModeState

E, N = Mode.EMERGENCY, Mode.NORMAL


@pytest.mark.parametrize(
    ("mode", "until_s", "now_s", "in_force"),
    [
        (E, None, 1e12, E),  # without an end it lasts
        (E, 100.0, 99.999, E),  # until its end
        (E, 100.0, 100.0, N),  # which is not part of it
        (E, 100.0, 1e12, N),
        (E, 0.0, 0.0, N),  # an end at zero is an end
        (N, 100.0, 99.0, N),
        (N, 100.0, 101.0, N),  # normal mode that ends is followed by normal mode
        (N, None, 0.0, N),
    ],
)
def test_an_emergency_ends_by_itself(mode: Mode, until_s: float | None, now_s: float, in_force: Mode) -> None:
    """The mode in force follows from the state and the time alone."""
    state = ModeState(version=3, mode=mode, until_s=until_s)
    assert state.at(now_s) is in_force
    assert state.is_over(now_s) is (until_s is not None and now_s >= until_s)


def test_a_fleet_that_was_told_nothing_is_in_normal_mode() -> None:
    """Version 0 is normal mode without an end."""
    state = ModeState()
    assert (state.version, state.mode, state.until_s) == (0, N, None)
    assert state.at(1e12) is N
