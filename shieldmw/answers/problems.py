"""The problem type, HTTP status and WebSocket close code of each reason for a refusal.

Problem types are those of draft-ietf-httpapi-ratelimit-headers-10.
"""

from __future__ import annotations

from dataclasses import dataclass

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision, Reason

# Close codes of RFC 6455, 7.4.1, and of its IANA registry.
WEBSOCKET_POLICY_VIOLATION = 1008
WEBSOCKET_SERVICE_RESTART = 1012
WEBSOCKET_TRY_AGAIN_LATER = 1013

PROBLEM_TYPES = "https://iana.org/assignments/http-problem-types"

# Reasons with status 503; and reasons for which a WebSocket is closed with 1008.
_FEWER_FOR_NOW = (Reason.NO_SEAT, Reason.EMERGENCY, Reason.RESTARTING, Reason.OVERLOAD)
_AGAINST_POLICY = (Reason.DENY_LIST, Reason.TOO_MANY_STREAMS, Reason.REPLACED, Reason.CREDENTIAL_ENDED)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem type, with our title and detail for it."""

    type: str
    title: str
    detail: str


_QUOTA = Problem(
    f"{PROBLEM_TYPES}#quota-exceeded",
    "Too many requests",
    "More was asked than the limit allows. Please wait, then try again.",
)
_ABNORMAL = Problem(
    f"{PROBLEM_TYPES}#abnormal-usage-detected",
    "Abnormal usage detected",
    "Requests from this address are not being served.",
)
_TYPE_REDUCED = f"{PROBLEM_TYPES}#temporary-reduced-capacity"
_STORE_CLOSED = Problem(
    _TYPE_REDUCED, "Reduced capacity", "Requests cannot be admitted for a moment. Please try again shortly."
)
_GUEST = Problem(
    _TYPE_REDUCED,
    "Fewer listeners for now",
    "This event is serving a smaller audience for now, and listeners who are signed in go first.",
)
_MEMBER = Problem(
    _TYPE_REDUCED,
    "You are in the waiting room",
    "All seats are taken. You keep your place: this answer says when to ask again.",
)
_RESTARTING = Problem(
    _TYPE_REDUCED,
    "This server is restarting",
    "Please come straight back, and show your ticket: it keeps your place before new listeners.",
)
_OVERLOAD = Problem(
    _TYPE_REDUCED,
    "Very busy",
    "There are more requests than can be answered just now, and hosts and members go first. Please try again shortly.",
)
_TOO_MANY_STREAMS = Problem(
    f"{PROBLEM_TYPES}#quota-exceeded",
    "Too many streams",
    "This address has as many live streams open as are allowed. Close one, or sign in.",
)
_REPLACED = Problem(
    f"{PROBLEM_TYPES}#quota-exceeded",
    "Another stream took this one's place",
    "You have opened another live stream, and the newest ones go on.",
)
_CREDENTIAL_ENDED = Problem(
    "about:blank",
    "Unauthorized",
    "The credential that opened this stream has ended or was revoked. Please sign in again.",
)
_CLOSED = Problem(_TYPE_REDUCED, "Closed for now", "This part of the event is closed for the moment.")

_PROBLEMS = {
    Reason.DENY_LIST: _ABNORMAL,
    Reason.STORE_CLOSED: _STORE_CLOSED,
    Reason.NO_SEAT: _MEMBER,
    Reason.RESTARTING: _RESTARTING,
    Reason.OVERLOAD: _OVERLOAD,
    Reason.TOO_MANY_STREAMS: _TOO_MANY_STREAMS,
    Reason.REPLACED: _REPLACED,
    Reason.CREDENTIAL_ENDED: _CREDENTIAL_ENDED,
    Reason.EMERGENCY: _CLOSED,
}


def problem_of(decision: Decision) -> Problem:
    """The problem that explains a refusal to the client."""
    if decision.listener_class is ListenerClass.GUEST and decision.reason in (Reason.NO_SEAT, Reason.EMERGENCY):
        return _GUEST
    return _PROBLEMS.get(decision.reason, _QUOTA)


def status_of(decision: Decision) -> int:
    """503 if the fleet serves fewer clients for now, 429 if the client sent too much, 401 if its credential ended."""
    if decision.reason is Reason.CREDENTIAL_ENDED:
        return 401
    return 503 if decision.reason in _FEWER_FOR_NOW else 429


def close_code(decision: Decision) -> int:
    """The close code for a WebSocket. 1008 means that merely reconnecting will not help."""
    if decision.reason is Reason.RESTARTING:
        return WEBSOCKET_SERVICE_RESTART
    return WEBSOCKET_POLICY_VIOLATION if decision.reason in _AGAINST_POLICY else WEBSOCKET_TRY_AGAIN_LATER
