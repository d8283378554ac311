"""Random hostile requests, for every parser of outside text and for the whole shield.

Run as a program it goes on for longer than the tests do, with ``tests`` on PYTHONPATH:
``python -m doors.asgi.hostile --inputs 2000000 --requests 400000``. It prints what was raised, and ends with 1 where
anything was.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import logging
import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from starlette.types import Message, Receive, Scope, Send

from core.addresses import client_address
from doors.asgi.harness import http_scope, websocket_scope
from shieldmw import Settings, ShieldMiddleware
from shieldmw.admin.answers import validated
from shieldmw.admin.schema import ActorHeader, AuditQuery, CidrPath, DenyBody, ModeBody, ResetBody, TopQuery
from shieldmw.core.address import Networks, network_of, parse_address, parse_networks
from shieldmw.core.client import ListenerClass, Prefixes
from shieldmw.core.limits import parse_limits
from shieldmw.core.paths import PathPattern, below_root, plain, readings
from shieldmw.core.tickets import Signer, Ticket
from shieldmw.doors.asgi.facts import CredentialSources, FactsReader
from shieldmw.errors import StoreError
from shieldmw.gate.auth.jwt_tokens import FixedKey, JwtVerifier, secret_key
from shieldmw.gate.operator.control import clients_of
from shieldmw.settings.rules import parse_rules
from shieldmw.store import records
from shieldmw.store.documents import LIMITS, MODE

SECRET = "s" * 40
ADMIN, VIEWER = "a" * 20, "v" * 20

# Pieces that mean something to some reader; between them single characters of all kinds.
WORDS = [
    *("..", "//", "%2e", "%25", "%00", "/live", "/-/shield", "/healthz", "127.0.0.1", "::ffff:", "fe80::1%eth0"),
    *("[::1]:80", "for=", "by=", "proto=", "unknown", "_x", "Bearer ", "JWT ", "bearer.", "shield_ticket=", "token="),
    *("eyJ", "GET", "\r\n", "\x1b[31m", "\x00", "\x7f", "\xff", "\u202e", "\ud800", "\U0001f600"),
    *("\uff11", "NaN", "1e999", "null", '{"a":', "[["),
]
MARKS = "0123456789abcdef.:[]%,;=\"'\\ \t/-_+@#?&{}()<>~^|*!$`"

Checked = Callable[["Hostile"], object]


class Hostile:
    """Makes hostile text, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self, most: int = 40) -> str:
        """Pieces and marks in any order."""
        pieces = self.random.choices([*WORDS, *MARKS], k=self.random.randint(0, most))
        return "".join(pieces)

    def octets(self, most: int = 40) -> bytes:
        """The same as a server hands a header on."""
        return self.text(most).encode("latin-1", "replace")

    def either(self, *some: Any) -> Any:
        """One of these."""
        return self.random.choice(some)

    def value(self, depth: int = 0) -> Any:
        """A value of JSON, some of which JSON does not know."""
        kind = self.random.randint(0, 8 if depth < 3 else 6)
        if kind == 7:
            return [self.value(depth + 1) for _ in range(self.random.randint(0, 3))]
        if kind == 8:
            return self.record(self.text(5), self.text(5), depth=depth + 1)
        numbers = self.either(0, 1, -1, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"))
        words = self.either("member", "host", "HS256", "none", "JWT", "normal", "emergency", "10.0.0.0/8")
        return (numbers, self.text(12), None, True, words, 4_102_444_800, numbers)[kind]

    def record(self, *names: str, depth: int = 0) -> dict[str, Any]:
        """An object with some of these fields."""
        return {self.either(*names): self.value(depth) for _ in range(self.random.randint(0, 5))}

    def json(self, *names: str) -> bytes:
        """Such an object as text, or no JSON at all."""
        if self.random.random() < 0.3:
            return self.text().encode("utf-8", "surrogatepass")
        return json.dumps(self.record(*names)).encode()


# --- every reader of outside text ---------------------------------------------------------------------

TRUSTED = Networks(parse_networks("127.0.0.0/8, ::1/128, 10.0.0.0/8"), unix=True)
SIGNER = Signer(b"k" * 32, "event")
TICKET = SIGNER.sign_ticket(Ticket("a" * 16, "c" * 24, ListenerClass.GUEST, 2**33))
READERS = [
    FactsReader(CredentialSources("x-forwarded-for", "authorization", "token", "token"), None),
    FactsReader(CredentialSources("forwarded", "sec-websocket-protocol", "token", None), None),
    FactsReader(CredentialSources(None, "x-key", None, "token"), None),
]
VERIFIERS = [
    JwtVerifier(FixedKey(secret_key(SECRET, ())), audience="a", issuer="i", class_claim="class"),
    JwtVerifier(FixedKey(secret_key(SECRET, ("HS256", "HS512"))), audience=None, issuer=None, class_claim="class"),
]
HEADERS = [
    *(b"cookie", b"authorization", b"x-forwarded-for", b"forwarded", b"shield-ticket", b"x-http-method-override"),
    *(b"sec-websocket-protocol", b"accept", b"host", b"sec-fetch-site", b"if-match", b"shield-actor", b"content-type"),
    *(b"content-length", b"content-encoding", b"origin", b"x-key"),
]


def reads_addresses(hostile: Hostile) -> None:
    """Any header of a proxy, and any text as an address."""
    header = hostile.either("x-forwarded-for", "forwarded", "cf-connecting-ip", "cloudfront-viewer-address")
    lines = tuple(hostile.text() for _ in range(hostile.random.randint(0, 3)))
    client_address(hostile.either("127.0.0.1", None, hostile.text(20)), lines, TRUSTED, header)
    if (address := parse_address(hostile.text(6))) is not None:
        Prefixes(hostile.either(8, 24, 32), hostile.either(16, 56, 64, 128)).clients(address)


def reads_paths(hostile: Hostile) -> None:
    """Any path below any root; what is plain stays as it is."""
    path, root = hostile.text(), hostile.either("", "/api", hostile.text(5))
    once = plain(path)
    assert plain(once) == once, path
    readings(path, below_root(path, root), root)


def reads_signed_tickets(hostile: Hostile) -> None:
    """Any paper, and a ticket of ours of which one character is another."""
    text = hostile.text()
    assert (SIGNER.read_ticket(text, 0), SIGNER.read_number(text, 0)) == (None, None)
    SIGNER.client_digest(text.encode("utf-8", "surrogatepass"))
    at = hostile.random.randrange(len(TICKET))
    forged = TICKET[:at] + hostile.text(1) + TICKET[at + 1 :]
    assert forged == TICKET or SIGNER.read_ticket(forged, 0) is None, forged


def reads_facts(hostile: Hostile) -> None:
    """Any head."""
    scope = head(hostile)
    for reader in READERS:
        reader.read(scope)


def reads_tokens(hostile: Hostile) -> None:
    """Claims and headers of all kinds, properly signed; and what is no token."""
    header = {"alg": "HS256", **hostile.record("alg", "typ", "kid", "crit", "b64", "jku", "jwk", "zip")}
    claims = {"sub": "a", "exp": 4_102_444_800, **hostile.record("sub", "exp", "nbf", "iat", "aud", "iss", "class")}
    signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
    mac = encoded(hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest())
    parts = ".".join(encoded(hostile.octets()) for _ in range(3))
    for token in (f"{signed}.{mac}", parts, hostile.text()):
        for verifier in VERIFIERS:
            proof = verifier.verify(token)
            assert proof is None or (isinstance(proof.identity.subject, str) and isinstance(proof.until_s, float))


def encoded(data: bytes) -> str:
    """Unpadded base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def reads_admin_requests(hostile: Hostile) -> None:
    """Bodies and parameters of the operator's routes."""
    for model in (ModeBody, DenyBody, ResetBody):
        bearing(
            model.model_validate_json,
            hostile.json("mode", "for_seconds", "capacity", "guest_share", "reason", "client"),
        )
    for parameters, name in (
        (CidrPath, "cidr"),
        (AuditQuery, "count"),
        (TopQuery, "count"),
        (ActorHeader, "Shield-Actor"),
    ):
        validated(parameters, {name: hostile.text(12)})
    bearing(network_of, hostile.text(12))
    bearing(clients_of, hostile.either("ip:", "token:", "") + hostile.text(12), Prefixes(32, 64))


def reads_records(hostile: Hostile) -> None:
    """What others may have written into the store."""
    body = hostile.json("subject", "class", "until", "actor", "reason", "mode", "capacity", "guest_share", "who", "now")
    records.parse_api_key(hostile.octets(6), body)
    records.parse_deny(hostile.either(b"10.0.0.0/8", hostile.octets(8)), body)
    records.parse_audit([(hostile.either(b"1-0", hostile.octets(4)), [b"entry", body])])
    reply = (hostile.either(0, 1, 2**60), hostile.either(0, 2**70), hostile.either(0, 2**80), 1)
    bearing(records.parse_document, hostile.either(MODE, LIMITS), reply, body, body)
    records.parse_load(hostile.octets(6), body)
    records.parse_top(hostile.octets(6), body)
    records.mark(body)
    bearing(records.parse_secret, body)


def reads_settings(hostile: Hostile) -> None:
    """Rules, limits and patterns."""
    rule = hostile.record("name", "path", "methods", "limits", "cost", "live", "emergency", "burst")
    bearing(parse_rules, hostile.either(hostile.text(), json.dumps([rule])))
    bearing(lambda text: parse_limits(text, name="x"), f"{hostile.text(3)}/{hostile.either('second', hostile.text(3))}")
    bearing(PathPattern, hostile.text(8))


def bearing(read: Callable[..., object], *arguments: object) -> None:
    """What says what is wrong with it has borne it."""
    with suppress(ValueError, ValidationError, StoreError):
        read(*arguments)


READ: Sequence[Checked] = (
    *(reads_addresses, reads_paths, reads_signed_tickets, reads_facts, reads_tokens),
    *(reads_admin_requests, reads_records, reads_settings),
)


def raised_by_readers(seed: int, inputs: int) -> Counter[str]:
    """What was raised that is no answer, by reader; so many inputs."""
    hostile, raised = Hostile(seed), Counter[str]()
    for number in range(inputs):
        reads = READ[number % len(READ)]
        try:
            reads(hostile)
        except Exception as error:
            raised[where(reads.__name__, error)] += 1
    return raised


def where(what: str, error: Exception) -> str:
    """What was raised, and on which line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{what}: {error!r:.200} at {frame.filename}:{frame.lineno}"


# --- the whole shield ---------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "live_paths": "/live,/x/*",
    "capacity": 3,
    "ip_limit": "100000/minute",
    "jwt_secret": SECRET,
    "token_cookie": "token",
    "token_query": "token",
    "admin_token": ADMIN,
    "view_token": VIEWER,
    "trusted_proxies": "127.0.0.0/8,unix",
    "failed_auth_limit": "100000/minute",
    "rules": '[{"name": "s", "path": "/s/*", "limits": "3/second", "cost": 2, "emergency": "members"}]',
    "emergency_guest_share": 0.5,
}
VARIANTS: Sequence[dict[str, Any]] = (
    {},
    {"dry_run": True},
    {"forwarded_header": "forwarded", "token_header": "sec-websocket-protocol"},
    {"forwarded_header": "cloudfront-viewer-address", "exempt_paths": "/*"},
    {"ip_limit": "3/second;5/minute", "address_limit": "50/minute"},
)
PATHS = (
    *("/", "/live", "/x/1", "/s/1", "/healthz", "/-/shield/status", "/-/shield/mode", "/-/shield/audit"),
    *("/-/shield/deny", "/-/shield/deny/10.0.0.0/8", "/-/shield/reset", "/-/shield/openapi.json"),
)
BODIES = (
    *(b'{"mode":"emergency","for_seconds":1,"guest_share":0.5}', b'{"mode":"normal"}', b'{"client":"ip:10.0.0.1"}'),
    *(b'{"for_seconds":1}', b"[" * 9000),
)


def token() -> bytes:
    """A member's."""
    signed = ".".join(encoded(part) for part in (b'{"alg":"HS256"}', b'{"sub":"alice","exp":4102444800}'))
    return f"{signed}.{encoded(hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest())}".encode()


TOKEN = token()


def head(hostile: Hostile) -> Scope:
    """A request of any kind, from anywhere."""
    values = (
        hostile.octets(),
        b"Bearer " + TOKEN,
        b"Bearer " + ADMIN.encode(),
        b"Bearer " + VIEWER.encode(),
        b"text/html",
    )
    headers = [(hostile.either(*HEADERS), hostile.either(*values)) for _ in range(hostile.random.randint(0, 5))]
    if hostile.random.random() < 0.02:
        headers *= 100
    scope: dict[str, Any] = {
        "path": hostile.either(*PATHS, hostile.text(12), "/live" + hostile.text(5), "/-/shield/" + hostile.text(8)),
        "root_path": hostile.either("", "", "/x", hostile.octets(3).decode("latin-1")),
        "query_string": hostile.either(b"", hostile.octets(), b"token=" + TOKEN, b"shield_ticket=" + TICKET.encode()),
        "headers": headers,
        "client": hostile.either(
            None, ("127.0.0.1", 1), (f"10.0.0.{hostile.random.randint(0, 255)}", 1), (hostile.text(9), 0)
        ),
        "scheme": hostile.either("http", "https"),
    }
    if hostile.random.random() < 0.2:
        made = websocket_scope(**scope)
    else:
        made = http_scope(
            **{**scope, "method": hostile.either("GET", "HEAD", "PUT", "POST", "DELETE", hostile.text(3))}
        )
    made["raw_path"] = hostile.either(None, made["path"].encode("utf-8", "surrogatepass"))
    made["extensions"] = hostile.either({}, {"websocket.http.response": {}})
    return made


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads all that the shield tells it, and answers."""
    shield = scope["shield"]
    assert shield.client_address is None or isinstance(shield.client_address, str)
    assert shield.identity is None or shield.identity.subject == "alice"
    assert shield["mode"] in ("normal", "emergency")
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Asking:
    """Sends hostile requests to shields of several kinds, and looks at what is answered."""

    def __init__(self, seed: int) -> None:
        self.hostile = Hostile(seed)
        self.raised = Counter[str]()
        self.statuses = Counter[int]()

    async def ask(self, shield: ShieldMiddleware) -> None:
        """One request."""
        scope = head(self.hostile)
        kind = scope["type"]
        body = self.hostile.either(self.hostile.octets(), *BODIES)
        first: Message = {"type": "websocket.connect"}
        if kind == "http":
            first = {"type": "http.request", "body": body, "more_body": False}
        messages = [first]

        async def receive() -> Message:
            return messages.pop(0) if messages else {"type": f"{kind}.disconnect"}

        async def send(message: Message) -> None:
            self.look_at(message)

        try:
            await shield(scope, receive, send)
        except Exception as error:
            self.raised[where("the shield", error)] += 1

    def look_at(self, message: Message) -> None:
        """No answer is a mistake of ours, and no header has more than one line."""
        status = message.get("status")
        if status is None:
            return
        self.statuses[status] += 1
        if status >= 500 and status != 503:
            self.raised[f"a {status}"] += 1
        for name, value in message["headers"]:
            if set(b"\r\n\x00") & set(value):
                self.raised[f"a line end in {name!r}"] += 1


class NoBrokenLines(logging.Handler):
    """Log lines that cannot be written are counted."""

    def __init__(self, raised: Counter[str]) -> None:
        super().__init__()
        self._raised = raised

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, to nowhere."""
        try:
            if any(not mark.isprintable() for mark in record.getMessage().replace("\n", "")):
                self._raised[f"a log line with what does not print: {record.msg}"] += 1
        except Exception as error:
            self._raised[where("a log line", error)] += 1


async def ask_shields(seed: int, requests: int) -> Asking:
    """So many requests, to each kind of shield in turn."""
    asking = Asking(seed)
    shields = [ShieldMiddleware(app, Settings(**{**BASE, **variant})) for variant in VARIANTS]
    log, handler = logging.getLogger("shieldmw"), NoBrokenLines(asking.raised)
    log.addHandler(handler)
    try:
        for number in range(requests):
            await asking.ask(shields[number % len(shields)])
    finally:
        log.removeHandler(handler)
        for shield in shields:
            await shield._stop()
    return asking


def main() -> int:
    """Run as long as is said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=2_000_000)
    parser.add_argument("--requests", type=int, default=400_000)
    given = parser.parse_args()
    logging.getLogger("shieldmw").propagate = False
    logging.getLogger("shieldmw").addHandler(logging.NullHandler())
    raised = raised_by_readers(given.seed, given.inputs)
    asking = asyncio.run(ask_shields(given.seed, given.requests))
    raised += asking.raised
    lines = [f"{given.inputs} inputs, {given.requests} requests: {dict(asking.statuses)}"]
    lines += [f"{count} times {what}" for what, count in raised.most_common()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if raised else 0


if __name__ == "__main__":
    sys.exit(main())
