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

# Networks that get a message each; if more are denied at once, one message counts the others. If more than this many
# are, it is the only one.
NAMED: Final = 5
MOST_CLAIMED: Final = 200

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


class Denied(NamedTuple):
    """Networks that were denied, of which this worker tells those that no other one has told."""

    entries: Sequence[DenyEntry]
    now_s: float
    name: str = "denied networks"


# Why an attempt has failed, None if it has not; and whether another one would be no use.
Attempted = tuple[str | None, bool]


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
        self._waiting: asyncio.Queue[Notice | Denied] = asyncio.Queue(MOST_WAITING)
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
        self._put(Denied(entries, now_s))

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

    def _put(self, notice: Notice | Denied) -> None:
        """Have it sent. If too many wait, the oldest denials are dropped, and if there are none, the new one is."""
        if not self._waiting.full():
            self._waiting.put_nowait(notice)
            return
        waiting = [*(self._waiting.get_nowait() for _ in range(self._waiting.qsize())), notice]
        dropped = next((it for it, one in enumerate(waiting) if isinstance(one, Denied)), len(waiting) - 1)
        log.warning("the webhook does not keep up: %s", _not_told(waiting.pop(dropped)))
        for one in waiting:
            self._waiting.put_nowait(one)
            self._waiting.task_done()  # for the one that was taken out

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
                if isinstance(notice, Denied):
                    await self._tell_denied(notice)
                elif not notice.ends or notice.ends in self._begun:
                    self._begun.discard(notice.ends)
                    await self._tell(notice)
            except Exception:
                log.exception("the webhook failed: %s", _not_told(notice))
            finally:
                self._waiting.task_done()

    async def _tell(self, notice: Notice) -> None:
        """Send a message, unless another worker does."""
        unclaimed, owner = list(notice.claims), self._token()
        # Other fleets may send to the same URL, so the name alone would not do as an id.
        id_ = f"shieldmw-{notice.name}-{owner}"

        async def attempt() -> Attempted:
            while unclaimed:
                if not await self._claim(unclaimed[0], owner):
                    return None, True
                del unclaimed[0]
            if notice.begins:
                self._begun.add(notice.begins)
            return await self._attempt(id_, notice.body)

        await self._try(notice.name, attempt)

    async def _tell_denied(self, denied: Denied) -> None:
        """Tell of those networks that no other worker has told: others may have seen more or fewer of them at once."""
        unclaimed, owner, own = list(denied.entries[:MOST_CLAIMED]), self._token(), list[DenyEntry]()

        async def attempt() -> Attempted:
            while unclaimed:
                if await self._claim(f"deny-{_digest(unclaimed[0])}", owner):
                    own.append(unclaimed[0])
                del unclaimed[0]
            return None, True

        await self._try(denied.name, attempt)
        is_long = len(denied.entries) > MOST_CLAIMED
        named = [] if is_long else own[:NAMED]
        for entry in named:
            await self._tell(Notice(f"deny-{_digest(entry)}", (), deny_body(entry, denied.now_s)))
        if more := own[len(named) :]:
            body = more_denied_body(len(more), denied.now_s, is_long=is_long)
            await self._tell(Notice(f"deny-more-{_digest(more[0])}", (), body))

    def _token(self) -> str:
        return f"{self._random.getrandbits(64):016x}"

    async def _try(self, name: str, attempt: Callable[[], Awaitable[Attempted]]) -> None:
        """Try a few times, also if the store does not answer. Nothing of the URL is logged, since it may be all that
        keeps others from using it."""
        wait_s = FIRST_WAIT_S
        for number in range(1, ATTEMPTS + 1):
            try:
                failure, is_final = await attempt()
            except StoreError as error:
                failure, is_final = f"the store does not answer: {harmless(error)}", False
            if failure is None:
                return
            if is_final or number == ATTEMPTS:
                break
            await asyncio.sleep(wait_s * (1 + self._random.random() / 2))
            wait_s *= 2
        log.warning("the webhook was not delivered (%s) after %s: %s", failure, counted(number, "attempt"), name)

    async def _attempt(self, id_: str, body: bytes) -> Attempted:
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


def more_denied_body(count: int, now_s: float, *, is_long: bool) -> bytes:
    """The JSON for networks that are too many to be told one by one; if the list ``is_long``, there are even more."""
    if is_long:
        return _body("deny.added", now_s, f"denied more than {counted(count, 'network')}", {"more_than": count})
    return _body("deny.added", now_s, f"denied {counted(count, 'more network')}", {"count": count})


def alarm_body(kind: str, alarm: Alarm, text: str, now_s: float) -> bytes:
    """The JSON for an alarm that begins or ends."""
    return _body(kind, now_s, text, {"alarm": alarm})


def _body(kind: str, at_s: float, text: str, data: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "timestamp": utc(at_s), "text": f"shieldmw: {text}", "data": data}).encode()


def _who_and_why(change: ModeState | OverridesState | DenyEntry) -> str:
    reason = f": {change.reason}" if change.reason else ""
    return f" by {change.actor}{reason}" if change.actor else reason


def _not_told(notice: Notice | Denied) -> str:
    return f"{notice.name} {'are' if isinstance(notice, Denied) else 'is'} not told"


def _digest(entry: DenyEntry) -> str:
    """The same on all workers."""
    return sha256(f"{entry.network} {entry.until_s:.0f} {entry.actor}".encode()).hexdigest()[:16]


@cache
def _tls() -> ssl.SSLContext:
    """The trusted certificates, loaded once, since that takes 25 ms."""
    return httpx.create_ssl_context()
