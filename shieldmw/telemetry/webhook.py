"""Tells a URL of every change of the mode: once for the whole fleet, signed, and again for a while if it fails.

Signed as Standard Webhooks describes it (standardwebhooks.com, 1.0), so any of its libraries verifies it. The member
``text`` is what chat services (Slack, Mattermost) show.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import cache
from hashlib import sha256
from hmac import HMAC
from typing import Final

import httpx

from shieldmw.core.mode import Mode, ModeState
from shieldmw.core.text import counted, harmless
from shieldmw.errors import StoreError
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock, utc

log = logging.getLogger("shieldmw.webhook")

# Bounds of one attempt, of all attempts for one change, and of the changes that wait.
TIMEOUT_S: Final = 5.0
ATTEMPTS: Final = 6
MOST_WAITING: Final = 16

# Wait before the second attempt; it doubles with each one, and up to half of it is added at random. All attempts
# together take a minute and a half at most.
FIRST_WAIT_S: Final = 1.0

# How long a worker that stops goes on with what it has begun.
LAST_S: Final = 1.0

# Status codes after which another attempt may succeed.
_MAY_SUCCEED_LATER: Final = frozenset((408, 425, 429, 500, 502, 503, 504))


class Webhook:
    """Sends changes of the mode to ``url``. ``claim`` says whether this worker is the one to tell of a change: it is
    called with a name for the change, which is the same on all workers.
    """

    def __init__(
        self, url: str, secret: str | None, claim: Callable[[str], Awaitable[bool]], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._url = url
        self._secret = None if secret is None else secret.encode()
        self._claim = claim
        self._unix_s = clock.unix_s
        self._random = clock.random
        self._emergency = 0  # the version of the last one
        self._waiting: asyncio.Queue[tuple[str, ModeState]] = asyncio.Queue(MOST_WAITING)
        self._task: asyncio.Task[None] | None = None

    def mode_changed(self, state: ModeState) -> None:
        """Tell of a change, as an observer of the mode."""
        if state.mode is Mode.EMERGENCY:
            self._emergency = state.version
        # The end has the emergency's version: some workers see it by their clock, others when it has a version itself.
        notice = f"{self._emergency}-{state.mode}"
        if self._waiting.full():
            log.warning("the webhook does not keep up: %s is not told", notice)
        else:
            self._waiting.put_nowait((notice, state))

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
            notice, state = await self._waiting.get()
            try:
                await self._tell(notice, body_of(state))
            except Exception:
                log.exception("the webhook failed: %s is not told", notice)
            finally:
                self._waiting.task_done()

    async def _tell(self, notice: str, body: bytes) -> None:
        """Try a few times, unless another worker does. Nothing of the URL is logged, since it may be all that keeps
        others from using it."""
        wait_s, is_ours = FIRST_WAIT_S, False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                is_ours = is_ours or await self._claim(notice)
            except StoreError as error:
                failure, is_final = f"the store does not answer: {harmless(error)}", False
            else:
                if not is_ours:
                    return
                failed, is_final = await self._attempt(f"shieldmw-{notice}", body)
                if failed is None:
                    return
                failure = failed
            if is_final or attempt == ATTEMPTS:
                break
            await asyncio.sleep(wait_s * (1 + self._random.random() / 2))
            wait_s *= 2
        log.warning("the webhook was not delivered (%s) after %s: %s", failure, counted(attempt, "attempt"), notice)

    async def _attempt(self, name: str, body: bytes) -> tuple[str | None, bool]:
        """Why an attempt failed, None if it did not; and whether another one would be no use."""
        headers = {"content-type": "application/json", "user-agent": "shieldmw", **self._signature(name, body)}
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

    def _signature(self, name: str, body: bytes) -> dict[str, str]:
        if self._secret is None:
            return {}
        at = str(int(self._unix_s()))
        signed = HMAC(self._secret, f"{name}.{at}.".encode() + body, sha256).digest()
        signature = f"v1,{base64.b64encode(signed).decode()}"
        return {"webhook-id": name, "webhook-timestamp": at, "webhook-signature": signature}


def body_of(state: ModeState) -> bytes:
    """The JSON that is sent. Times are in UTC."""
    until = None if state.until_s is None or state.mode is Mode.NORMAL else utc(state.until_s)
    terms = "" if until is None else f" until {until}"
    reason = f": {state.reason}" if state.reason else ""
    by = f" by {state.actor}" if state.actor else ""
    return json.dumps(
        {
            "type": "mode.changed",
            "timestamp": utc(state.since_s),
            "text": f"shieldmw: {state.mode}{terms}{by}{reason}",
            "data": {
                "mode": state.mode,
                "version": state.version,
                "actor": state.actor,
                "reason": state.reason,
                "until": until,
                "capacity": state.capacity,
                "guest_share": state.guest_share,
            },
        }
    ).encode()


@cache
def _tls() -> ssl.SSLContext:
    """The trusted certificates, loaded once, since that takes 25 ms."""
    return httpx.create_ssl_context()
