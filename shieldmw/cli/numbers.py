"""Numbers as options, with clearer errors than Click's own types, which only say 'not a valid float range'."""

from __future__ import annotations

from typing import Any

import click


class Whole(click.IntRange):
    """A whole number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, if it is in the range."""
        try:
            int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number: write it like 5000, without separators or a unit", param, ctx)
        return super().convert(value, param, ctx)


class Number(click.FloatRange):
    """A number in a range; ``example`` shows how to write one."""

    def __init__(self, least: float, most: float, example: str) -> None:
        super().__init__(least, most)
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, if it is in the range."""
        try:
            float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number: write it like {self._example}", param, ctx)
        return super().convert(value, param, ctx)
