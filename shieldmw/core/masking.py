"""Addresses in text, masked for those who may look but need not know whose they are. Pure."""

from __future__ import annotations

import re
from ipaddress import ip_address

# What may be an address, with the punctuation around it. Longer than any address: the rest is one of its own.
_CANDIDATE = re.compile(r"[0-9A-Fa-f:.]{2,60}")

# An IPv4 address in it if all of it is none, as with a port.
_IPV4 = re.compile(r"(?<!\d)(?<!\d\.)(\d{1,3}\.\d{1,3})\.\d{1,3}\.\d{1,3}(?!\.?\d)")


def masked(text: str) -> str:
    """The text with its addresses cut to the part that names a large network: ``203.0.x.x``, ``2001:db8:…``.

    A prefix length stays: ``203.0.x.x/24``.
    """
    return _CANDIDATE.sub(_cut, text)


def _cut(found: re.Match[str]) -> str:
    before, word, after = _without_punctuation(found[0])
    try:
        ip_address(word)
    except ValueError:
        return _IPV4.sub(r"\1.x.x", found[0])
    if ":" in word:
        shown = ":".join([*(group for group in word.split(":")[:2] if group), "…"])
    else:
        shown = ".".join([*word.split(".")[:2], "x.x"])
    return before + shown + after


def _without_punctuation(text: str) -> tuple[str, str, str]:
    """Split text into leading punctuation, core and trailing punctuation (full stops and single colons)."""
    word = text.strip(".")
    word = word.removeprefix(":") if not word.startswith("::") else word
    word = word.removesuffix(":") if not word.endswith("::") else word
    before, _, after = text.partition(word)
    return before, word, after
