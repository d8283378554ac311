"""The tokens of a drill: a member's valid one, and an attacker's forgeries.

Independent of the shield: tokens are signed as by any issuer, or as by someone without its key.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import jwt

_LIFETIME_S: Final = 3600
_WRONG_KEY: Final = secrets.token_hex(32)


@dataclass(frozen=True, slots=True)
class Issuer:
    """The issuer of the members' tokens: HS256 with ``secret``. ``now_s`` is Unix time."""

    secret: str
    name: str
    audience: str
    now_s: int

    def token(self, subject: str) -> str:
        """A valid token."""
        return jwt.encode(self._claims(subject), self.secret, algorithm="HS256")

    def expired(self, subject: str) -> str:
        """Correctly signed, but expired a day ago: what an attacker finds in an old log."""
        claims = self._claims(subject)
        claims["iat"] = self.now_s - 25 * _LIFETIME_S
        claims["exp"] = self.now_s - 24 * _LIFETIME_S
        return jwt.encode(claims, self.secret, algorithm="HS256")

    def unsigned(self, subject: str) -> str:
        """``alg`` none: correct claims, no signature."""
        return jwt.encode(self._claims(subject), "", algorithm="none")

    def wrongly_signed(self, subject: str) -> str:
        """HS256 with a key that is not the issuer's."""
        return jwt.encode(self._claims(subject), _WRONG_KEY, algorithm="HS256")

    def _claims(self, subject: str) -> dict[str, str | int]:
        return {
            "sub": subject,
            "iss": self.name,
            "aud": self.audience,
            "iat": self.now_s,
            "exp": self.now_s + _LIFETIME_S,
        }
