"""Durations and times as operators write and read them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import click

from shieldmw.core.mode import LONGEST_S
from shieldmw.core.text import counted

_UNITS_S = (86_400, 3600, 60, 1)
_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?")


Parser = Callable[[click.Context, click.Parameter, str | None], int | None]


def duration_up_to(most_s: int) -> Parser:
    """The callback of an option that is a duration of at most ``most_s`` seconds."""
    return lambda ctx, param, value: None if value is None else _parsed(ctx, param, value, most_s)


def _parsed(ctx: click.Context, param: click.Parameter, value: str, most_s: int) -> int:
    """Parse ``90s``, ``30m``, ``2h`` or ``1h30m`` into seconds; each number needs its unit."""
    found = _DURATION.fullmatch(value.strip().lower())
    parts = [int(part or 0) for part in found.groups()] if found else []
    seconds = sum(part * unit_s for part, unit_s in zip(parts, _UNITS_S, strict=False))
    if seconds < 1:
        number = value.strip()
        right = "is not a duration: write it like 90s, 30m or 2h"
        if re.fullmatch(r"[1-9][0-9]{0,8}", number):
            right = f"has no unit: write {number}s or {number}m"
        raise click.BadParameter(f"'{value}' {right}", ctx, param)
    if seconds > most_s:
        raise click.BadParameter(f"'{value}' is too long: {written(most_s)} at most", ctx, param)
    return seconds


duration_s = duration_up_to(LONGEST_S)


def written(seconds: int) -> str:
    """A duration as it can be typed for --for."""
    text = ""
    for unit, unit_s in zip("dhms", _UNITS_S, strict=True):
        count, seconds = divmod(seconds, unit_s)
        text += f"{count}{unit}" if count else ""
    return text


def clock(unix_s: float, now_s: float) -> str:
    """A time on this machine's clock, with its zone, and with the date if it is not today."""
    there = time.localtime(time.time() + unix_s - now_s)
    today = time.localtime()
    return time.strftime("%H:%M:%S %Z" if there[:3] == today[:3] else "%d %b %H:%M:%S %Z", there)


def span(seconds: int) -> str:
    """A duration in words, in at most two units."""
    if seconds < 120:
        return f"{seconds} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 2:
        return f"{60 * hours + minutes} min"
    days, hours = divmod(hours, 24) if hours >= 48 else (0, hours)
    words = (counted(days, "day"), f"{hours} h") if days else (f"{hours} h", f"{minutes} min")
    return words[0] if words[1].startswith("0 ") else " ".join(words)
