"""The base of all answers: with the view token, the addresses in them are masked, wherever they are."""

from __future__ import annotations

from enum import Enum
from typing import Any, Self, TypeVar

from pydantic import BaseModel

from shieldmw.core.masking import masked

M = TypeVar("M", bound=BaseModel)


class Answer(BaseModel):
    """The answer of a route."""

    def masked(self) -> Self:
        """The same for those with the view token: the addresses in all its texts are masked."""
        return _masked_model(self)


def _masked_model(model: M) -> M:
    return model.model_copy(update={name: _masked(getattr(model, name)) for name in type(model).model_fields})


def _masked(value: Any) -> Any:
    """The value with the addresses in its texts masked. The keys of a dictionary are names that we gave."""
    if isinstance(value, BaseModel):
        return _masked_model(value)
    if isinstance(value, dict):
        return {key: _masked(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_masked(part) for part in value)
    return masked(value) if isinstance(value, str) and not isinstance(value, Enum) else value
