"""Tells a URL of changes of the mode and of limits, of denials and alarms: once for the whole fleet, signed, and again
for a while if it fails.

Signed as Standard Webhooks describes it (standardwebhooks.com, 1.0), so any of its libraries verifies it. The member
``text`` is what chat services (Slack, Mattermost) show.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from hmac import HMAC
from typing import Any, Final, NamedTuple

import httpx

from shieldmw.core.alarms import Alarm
from shieldmw.core.deny import DenyEntry
from shieldmw.core.mode import Mode, ModeState
from shieldmw.core.overrides import OverridesState
from shieldmw.core.text import counted, harmless
from shieldmw.errors import StoreError
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock, utc

log = logging.getLogger("shieldmw.webhook")

# Bounds of one attempt, of all attempts for one message, and of the messages that wait.
TIMEOUT_S: Final = 5.0
ATTEMPTS: Final = 6
MOST_WAITING: Final = 16

# Networks that get a message each; if more are denied at once, one message counts the others.
NAMED: Final = 5

# An alarm that begins again in the same slot of this length, or in the next one, is not told again.
SLOT_S: Final = 600.0

# Wait before the second attempt; it doubles with each one, and up to half of it is added at random. All attempts
# together take a minute and a half at most.
FIRST_WAIT_S: Final = 1.0

# How long a worker that stops goes on with what it has begun.
LAST_S: Final = 1.0

# Status codes after which another attempt may succeed.
_MAY_SUCCEED_LATER: Final = frozenset((408, 425, 429, 500, 502, 503, 504))


class Notice(NamedTuple):
    """One message. ``claims``: its names in the fleet; the worker that is the first with all of them sends it.
    ``begins`` and ``ends``: the names of an alarm, whose end is sent only by the worker that sent its beginning."""

    name: str
    claims: tuple[str, ...]
    body: bytes
    begins: str = ""
    ends: str = ""


class Webhook:
    """Sends messages to ``url``. ``claim`` says whether this worker is the one to send a message: it is called with
    a name for the message, which is the same on all workers, and with a random one that is this message's alone.
    """

    def __init__(
        self, url: str, secret: str | None, claim: Callable[[str, str], Awaitable[bool]], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._url = url
        self._secret = None if secret is None else secret.encode()
        self._claim = claim
        self._unix_s = clock.unix_s
        self._random = clock.random
        self._emergency = 0  # the version of the last one
        self._begun: set[str] = set()  # the alarms of which this worker has told
        self._waiting: asyncio.Queue[Notice] = asyncio.Queue(MOST_WAITING)
        self._task: asyncio.Task[None] | None = None

    def mode_changed(self, state: ModeState) -> None:
        """Tell of a change, as an observer of the mode."""
        if state.mode is Mode.EMERGENCY:
            self._emergency = state.version
        # The end has the emergency's version: some workers see it by their clock, others when it has a version itself.
        name = f"{self._emergency}-{state.mode}"
        self._put(Notice(name, (name,), body_of(state)))

    def limits_changed(self, state: OverridesState) -> None:
        """Tell of changed limits."""
        name = f"limits-{state.version}"
        self._put(Notice(name, (name,), limits_body(state)))

    def denied(self, entries: Sequence[DenyEntry], now_s: float) -> None:
        """Tell of denied networks."""
        for entry in entries[:NAMED]:
            name = f"deny-{_digest(entry)}"
            self._put(Notice(name, (name,), deny_body(entry, now_s)))
        if more := entries[NAMED:]:
            name = f"deny-more-{_digest(more[0])}"
            self._put(Notice(name, (name,), more_denied_body(len(more), now_s)))

    def alarm_begun(self, alarm: Alarm, why: str, mode: ModeState, begun_s: float) -> None:
        """Tell of an alarm. Without the store no worker knows what others do, so then each one tells."""
        slot = int(begun_s / SLOT_S)
        # The previous slot first: an alarm that was told there takes nothing here, so it holds back no later one.
        claims: tuple[str, ...] = (f"{alarm}-{slot - 1}", f"{alarm}-{slot}")
        if alarm is Alarm.EMERGENCY_ENDS:
            claims = (f"{alarm}-{mode.version}",)
        elif alarm is Alarm.STORE_AWAY:
            claims = ()
        body = alarm_body("alarm.begun", alarm, f"ALARM: {why}", begun_s)
        self._put(Notice(f"{alarm}-{int(begun_s)}", claims, body, begins=alarm))

    def alarm_ended(self, alarm: Alarm, now_s: float) -> None:
        """Tell that an alarm is over, if this worker has told that it began. When an emergency is, its end is told."""
        if alarm is Alarm.EMERGENCY_ENDS:
            return
        body = alarm_body("alarm.ended", alarm, f"over: {alarm.replace('_', ' ')}", now_s)
        self._put(Notice(f"{alarm}-over-{int(now_s)}", (), body, ends=alarm))

    def _put(self, notice: Notice) -> None:
        if self._waiting.full():
            log.warning("the webhook does not keep up: %s is not told", notice.name)
        else:
            self._waiting.put_nowait(notice)

    async def start(self) -> None:
        """Start sending."""
        await self.stop()
        self._task = asyncio.create_task(self._send_all(), name="shieldmw webhook")

    async def stop(self) -> None:
        """Finish what can be sent at once, and stop."""
        if self._task is None:
            return
        task, self._task = self._task, None
        with_time = asyncio.create_task(self._waiting.join())
        await asyncio.wait([with_time, task], timeout=LAST_S, return_when=asyncio.FIRST_COMPLETED)
        for one in (with_time, task):
            one.cancel()
        await asyncio.gather(with_time, task, return_exceptions=True)

    async def _send_all(self) -> None:
        while True:
            notice = await self._waiting.get()
            try:
                if not notice.ends or notice.ends in self._begun:
                    self._begun.discard(notice.ends)
                    await self._tell(notice)
            except Exception:
                log.exception("the webhook failed: %s is not told", notice.name)
            finally:
                self._waiting.task_done()

    async def _tell(self, notice: Notice) -> None:
        """Try a few times, unless another worker does. Nothing of the URL is logged, since it may be all that keeps
        others from using it."""
        wait_s, unclaimed = FIRST_WAIT_S, list(notice.claims)
        # Other fleets may send to the same URL, so the name alone would not do as an id.
        owner = f"{self._random.getrandbits(64):016x}"
        id_ = f"shieldmw-{notice.name}-{owner}"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                while unclaimed:
                    if not await self._claim(unclaimed[0], owner):
                        return
                    del unclaimed[0]
            except StoreError as error:
                failure, is_final = f"the store does not answer: {harmless(error)}", False
            else:
                if notice.begins:
                    self._begun.add(notice.begins)
                failed, is_final = await self._attempt(id_, notice.body)
                if failed is None:
                    return
                failure = failed
            if is_final or attempt == ATTEMPTS:
                break
            await asyncio.sleep(wait_s * (1 + self._random.random() / 2))
            wait_s *= 2
        log.warning(
            "the webhook was not delivered (%s) after %s: %s", failure, counted(attempt, "attempt"), notice.name
        )

    async def _attempt(self, id_: str, body: bytes) -> tuple[str | None, bool]:
        """Why an attempt failed, None if it did not; and whether another one would be no use."""
        headers = {"content-type": "application/json", "user-agent": "shieldmw", **self._signature(id_, body)}
        try:
            verify = await asyncio.to_thread(_tls) if self._url.startswith("https:") else False
            request = httpx.Request("POST", self._url, content=body, headers=headers)
            # The transport alone: a client would write the whole URL into the log, as httpx's own line at INFO.
            async with asyncio.timeout(TIMEOUT_S), httpx.AsyncHTTPTransport(verify=verify) as transport:
                response = await transport.handle_async_request(request)
                status = response.status_code
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return type(error).__name__, isinstance(error, httpx.InvalidURL)
        if 200 <= status < 300:
            return None, False
        return f"status {status}", status not in _MAY_SUCCEED_LATER

    def _signature(self, id_: str, body: bytes) -> dict[str, str]:
        """The headers of Standard Webhooks; without a secret those that need none."""
        at = str(int(self._unix_s()))
        headers = {"webhook-id": id_, "webhook-timestamp": at}
        if self._secret is None:
            return headers
        signed = HMAC(self._secret, f"{id_}.{at}.".encode() + body, sha256).digest()
        return {**headers, "webhook-signature": f"v1,{base64.b64encode(signed).decode()}"}


def body_of(state: ModeState) -> bytes:
    """The JSON for a change of the mode. Times are in UTC."""
    until = None if state.until_s is None or state.mode is Mode.NORMAL else utc(state.until_s)
    terms = "" if until is None else f" until {until}"
    data = {
        "mode": state.mode,
        "version": state.version,
        "actor": state.actor,
        "reason": state.reason,
        "until": until,
        "capacity": state.capacity,
        "guest_share": state.guest_share,
    }
    return _body("mode.changed", state.since_s, f"{state.mode}{terms}{_who_and_why(state)}", data)


def limits_body(state: OverridesState) -> bytes:
    """The JSON for changed limits."""
    until = None if state.until_s is None else utc(state.until_s)
    terms = "" if until is None else f" until {until}"
    data = {
        "limits": str(state.overrides),
        "version": state.version,
        "actor": state.actor,
        "reason": state.reason,
        "until": until,
    }
    return _body("limits.changed", state.since_s, f"limits: {state.overrides}{terms}{_who_and_why(state)}", data)


def deny_body(entry: DenyEntry, now_s: float) -> bytes:
    """The JSON for a denied network."""
    until = utc(entry.until_s)
    data = {"network": str(entry.network), "actor": entry.actor, "reason": entry.reason, "until": until}
    return _body("deny.added", now_s, f"denied {entry.network} until {until}{_who_and_why(entry)}", data)


def more_denied_body(count: int, now_s: float) -> bytes:
    """The JSON for networks that are too many to be told one by one."""
    return _body("deny.added", now_s, f"denied {counted(count, 'more network')}", {"count": count})


def alarm_body(kind: str, alarm: Alarm, text: str, now_s: float) -> bytes:
    """The JSON for an alarm that begins or ends."""
    return _body(kind, now_s, text, {"alarm": alarm})


def _body(kind: str, at_s: float, text: str, data: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "timestamp": utc(at_s), "text": f"shieldmw: {text}", "data": data}).encode()


def _who_and_why(change: ModeState | OverridesState | DenyEntry) -> str:
    reason = f": {change.reason}" if change.reason else ""
    return f" by {change.actor}{reason}" if change.actor else reason


def _digest(entry: DenyEntry) -> str:
    """The same on all workers."""
    return sha256(f"{entry.network} {entry.until_s:.0f} {entry.actor}".encode()).hexdigest()[:16]


@cache
def _tls() -> ssl.SSLContext:
    """The trusted certificates, loaded once, since that takes 25 ms."""
    return httpx.create_ssl_context()
