"""Redirects guests whose poll of a playlist found no seat to the recording, if that is a playlist as well."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision, Reason
from shieldmw.core.paths import playlist_kind

from .refusals import Answer

_NO_SEAT = (Reason.NO_SEAT, Reason.EMERGENCY)

# Characters that a URL may contain unescaped, and %, so that existing escapes are kept.
_SAFE = "%/:=&?~#+!$,;'@()*[]"


class RecordingRedirect:
    """Redirects refused polls to ``recording_url``, a playlist."""

    def __init__(self, recording_url: str) -> None:
        self._path = unquote(urlsplit(recording_url).path)
        self._kind = playlist_kind(self._path)
        self._headers = [
            (b"location", quote(recording_url, safe=_SAFE).encode("ascii")),
            (b"content-length", b"0"),
            (b"cache-control", b"no-store"),
        ]

    def answer(self, decision: Decision, path: str) -> Answer | None:
        """The redirect of a refused request for ``path``; None if it gets a refusal with its reason instead.

        A player reads only one kind of playlist, and cannot use one in place of a segment. Members get a place in the
        waiting room, which a player would lose by going elsewhere. There is no ``Retry-After``: in a redirect it says
        when to follow it. The recording's own path is never redirected.
        """
        is_poll_of_guest = decision.lease_s and decision.listener_class is ListenerClass.GUEST
        if not is_poll_of_guest or decision.reason not in _NO_SEAT:
            return None
        if path == self._path or playlist_kind(path) != self._kind:
            return None
        return Answer(307, list(self._headers), b"")
