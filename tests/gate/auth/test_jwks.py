"""A JWKS over real sockets: fetched in the background; the last keys stay in force whatever its server does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gate.doubles import FAR_AHEAD_S, loop_time, pass_time, run
from shieldmw import Identity
from shieldmw.gate.auth.jwks import LARGEST_BYTES, LEAST_S, REFRESH_S, JwksKeys, parse_jwks
from shieldmw.gate.auth.jwt_tokens import JwtVerifier

RSA_ONE, RSA_TWO, ATTACKER = (rsa.generate_private_key(65537, 2048) for _ in range(3))
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()

JWKS = "application/json"


def jwk(private: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """The public half as a JWK."""
    by_type: dict[type, Any] = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    algorithm = next(value for kind, value in by_type.items() if isinstance(private, kind))
    found: dict[str, Any] = dict(algorithm.to_jwk(private.public_key(), as_dict=True))
    return found | ({} if kid is None else {"kid": kid}) | more


def key_set(*keys: dict[str, Any]) -> bytes:
    """A JWKS."""
    return json.dumps({"keys": list(keys)}).encode()


def signed(private: Any, kid: str | None, algorithm: str = "RS256") -> str:
    """A good token of Alice's, if the key is one of ours."""
    headers = None if kid is None else {"kid": kid}
    return jwt.encode({"sub": "alice", "exp": FAR_AHEAD_S}, private, algorithm, headers=headers)


def reply(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Issuer:
    """A real HTTP server in the test's own loop, that answers each path as it is told and counts."""

    def __init__(self, body: bytes) -> None:
        self.answers = {"/jwks": reply(body)}
        self.asked: list[str] = []
        self.port = 0
        self.silent = False
        self._server: asyncio.Server | None = None

    def now(self, answer: bytes, path: str = "/jwks") -> None:
        """From now on the path gets this answer."""
        self.answers[path] = answer

    @property
    def url(self) -> str:
        """Where the JWKS is."""
        return f"http://127.0.0.1:{self.port}/jwks"

    async def start(self) -> None:
        """Listen, on the port it had before if it had one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            self.asked.append(path)
            if self.silent:
                await reader.read()
                return
            writer.write(self.answers.get(path, reply(b"", "404 Not Found")))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def issuer(*keys: dict[str, Any]) -> AsyncIterator[Issuer]:
    """A running issuer with these keys."""
    one = Issuer(key_set(*keys))
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


class Changes:
    """Counts how often the keys changed, and how often some were lost."""

    count = 0
    lost = 0

    def __call__(self, lost: bool) -> None:
        self.count += 1
        self.lost += lost


def verifying(keys: JwksKeys) -> Callable[[str], Identity | None]:
    """Whom a token proves by these keys."""
    verifier = JwtVerifier(keys, audience=None, issuer=None, class_claim="shield_class")

    def verify(token: str) -> Identity | None:
        proof = verifier.verify(token)
        return None if proof is None else proof.identity

    return verify


def check(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a story in virtual time."""
    run(story())


ALICE = Identity("alice")


def test_keys_are_fetched_before_the_start_returns_and_chosen_by_kid() -> None:
    """Each token is verified with the key it names, and no other."""

    async def story() -> None:
        changes = Changes()
        async with issuer(jwk(RSA_ONE, "one"), jwk(P256, "two"), jwk(ED25519, "three")) as server:
            keys = JwksKeys(server.url, ())
            keys.on_change = changes
            await keys.refresher.start()
            verify = verifying(keys)
            assert verify(signed(RSA_ONE, "one")) == ALICE
            assert verify(signed(P256, "two", "ES256")) == ALICE
            assert verify(signed(ED25519, "three", "EdDSA")) == ALICE
            assert verify(signed(RSA_ONE, "two")) is None, "another key's name"
            assert verify(signed(RSA_ONE, None)) is None, "no name, and several keys"
            assert verify(signed(ATTACKER, "one")) is None
            await keys.refresher.stop()
        assert (changes.count, len(server.asked)) == (1, 1)

    check(story)


def test_a_token_without_kid_is_verified_with_the_only_key() -> None:
    """RFC 7517 makes `kid` optional."""

    async def story() -> None:
        async with issuer(jwk(RSA_ONE, None)) as server:
            keys = JwksKeys(server.url, ())
            await keys.refresher.start()
            assert verifying(keys)(signed(RSA_ONE, None)) == ALICE
            assert verifying(keys)(signed(ATTACKER, None)) is None
            await keys.refresher.stop()

    check(story)


def test_an_unchanged_set_is_no_change() -> None:
    """What credentials were worth is not forgotten every five minutes."""

    async def story() -> None:
        changes = Changes()
        async with issuer(jwk(RSA_ONE, "one")) as server:
            keys = JwksKeys(server.url, ())
            keys.on_change = changes
            await keys.refresher.start()
            await pass_time(5 * REFRESH_S)
            await keys.refresher.stop()
        assert changes.count == 1
        assert 5 <= len(server.asked) <= 6

    check(story)


def test_a_new_key_is_picked_up_when_a_token_names_it() -> None:
    """Rotation: the first token with an unknown kid causes a fetch, and soon the key is there."""

    async def story() -> None:
        changes = Changes()
        async with issuer(jwk(RSA_ONE, "one")) as server:
            keys = JwksKeys(server.url, ())
            keys.on_change = changes
            await keys.refresher.start()
            verify = verifying(keys)
            await pass_time(LEAST_S * 2)
            server.now(reply(key_set(jwk(RSA_TWO, "two"))))
            assert verify(signed(RSA_TWO, "two")) is None
            await pass_time(LEAST_S)
            assert verify(signed(RSA_TWO, "two")) == ALICE
            assert verify(signed(RSA_ONE, "one")) is None, "the old key is gone from the set"
            await keys.refresher.stop()
        assert changes.count == 2

    check(story)


def test_forged_kids_cause_no_storm_of_fetches() -> None:
    """However many unknown names: one fetch in ten seconds, and good tokens stay good."""

    async def story() -> None:
        async with issuer(jwk(RSA_ONE, "one")) as server:
            keys = JwksKeys(server.url, ())
            await keys.refresher.start()
            verify = verifying(keys)
            good, forged = signed(RSA_ONE, "one"), [signed(ATTACKER, f"kid-{n}") for n in range(20)]
            for _ in range(60):
                assert [verify(token) for token in forged] == [None] * 20
                await pass_time(1.0)
            assert verify(good) == ALICE
            await keys.refresher.stop()
        assert len(server.asked) <= 1 + 60 / LEAST_S

    check(story)


BAD_ANSWERS: list[tuple[str, bytes]] = [
    ("500 with a set", reply(key_set(jwk(ATTACKER, "one")), "500 Internal Server Error")),
    ("404", reply(b"", "404 Not Found")),
    ("204 with nothing", reply(b"", "204 No Content")),
    ("garbage", reply(b"\x00\xff garbage")),
    ("empty", reply(b"")),
    ("HTML", reply(b"<html>maintenance</html>")),
    ("a number", reply(b"1")),
    ("null", reply(b"null")),
    ("a list", reply(b"[]")),
    ("no keys", reply(b'{"keys": []}')),
    ("keys that are no list", reply(b'{"keys": {"kty": "RSA"}}')),
    ("keys that are no objects", reply(b'{"keys": [1, null, "x"]}')),
    ("keys of unknown types", reply(b'{"keys": [{"kty": "XYZ", "kid": "one"}]}')),
    ("a broken RSA key", reply(b'{"keys": [{"kty": "RSA", "kid": "one", "n": "!", "e": "AQAB"}]}')),
    ("only a symmetric key", reply(key_set({"kty": "oct", "kid": "one", "k": "c2VjcmV0"}))),
    ("only a key for encryption", reply(key_set(jwk(ATTACKER, "one", use="enc")))),
    ("too large", reply(key_set(jwk(ATTACKER, "one", more="x" * LARGEST_BYTES)))),
    ("a redirect to another port", reply(b"", "302 Found", "Location: http://127.0.0.1:1/attacker")),
    ("a redirect to another host", reply(b"", "308 Permanent Redirect", "Location: http://localhost/attacker")),
    ("a redirect to another scheme", reply(b"", "301 Moved Permanently", "Location: file:///attacker")),
    ("a redirect to itself", reply(b"", "302 Found", "Location: /jwks")),
    ("a redirect to nowhere", reply(b"", "302 Found")),
    ("compressed", reply(b"x", "200 OK", "Content-Encoding: gzip")),
    ("no HTTP at all", b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
    ("cut off in the middle", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + key_set(jwk(ATTACKER, "one"))),
    ("nothing", b""),
    ("nested deeply", reply(b'{"keys": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
]


@pytest.mark.parametrize("answer", [answer for _, answer in BAD_ANSWERS], ids=[reason for reason, _ in BAD_ANSWERS])
def test_an_answer_that_is_no_usable_set_leaves_the_last_keys(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Bad answers change nothing, are said once in the log, and the next good one counts."""

    async def story() -> None:
        changes = Changes()
        async with issuer(jwk(RSA_ONE, "one")) as server:
            keys = JwksKeys(server.url, ())
            keys.on_change = changes
            await keys.refresher.start()
            verify = verifying(keys)
            server.now(answer)
            server.now(reply(key_set(jwk(ATTACKER, "one"))), "/attacker")
            await pass_time(REFRESH_S + 3 * LEAST_S)
            assert len(server.asked) >= 2
            assert verify(signed(RSA_ONE, "one")) == ALICE
            assert verify(signed(ATTACKER, "one")) is None
            assert changes.count == 1
            server.now(reply(key_set(jwk(RSA_TWO, "two"))))
            await pass_time(2 * LEAST_S)
            assert verify(signed(RSA_TWO, "two")) == ALICE
            await keys.refresher.stop()

    with caplog.at_level(logging.WARNING, logger="shieldmw"):
        check(story)
    assert len([record for record in caplog.records if "cannot be refreshed" in record.message]) == 1
    assert len(caplog.records) == 2


def test_a_server_that_is_down_at_the_start_is_no_reason_not_to_start(caplog: pytest.LogCaptureFixture) -> None:
    """Members are guests until the keys can be fetched, and that is soon after the server is back."""

    async def story() -> None:
        server = Issuer(key_set(jwk(RSA_ONE, "one")))
        await server.start()
        await server.stop()
        keys = JwksKeys(server.url, ())
        await keys.refresher.start()
        verify = verifying(keys)
        assert verify(signed(RSA_ONE, "one")) is None
        await server.start()
        await pass_time(LEAST_S + 1)
        assert verify(signed(RSA_ONE, "one")) == ALICE
        await server.stop()
        await pass_time(2 * REFRESH_S)
        assert verify(signed(RSA_ONE, "one")) == ALICE, "down again: the last keys stay"
        await keys.refresher.stop()

    with caplog.at_level(logging.WARNING, logger="shieldmw"):
        check(story)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3


def test_a_server_that_is_silent_at_the_start_is_asked_again_soon() -> None:
    """A server that was too slow once does not make everybody a guest for five minutes."""

    async def story() -> None:
        async with issuer(jwk(RSA_ONE, None)) as server:
            server.silent = True
            keys = JwksKeys(server.url, ())
            await keys.refresher.start()
            server.silent = False
            await pass_time(2 * LEAST_S)
            assert verifying(keys)(signed(RSA_ONE, None)) == ALICE
            await keys.refresher.stop()

    check(story)


def test_a_fetch_that_fails_raises_what_the_docstring_says() -> None:
    """Callers of `refresh` see a failure as ValueError."""

    async def story() -> None:
        async with issuer(jwk(RSA_ONE, "one")) as server:
            keys = JwksKeys(server.url, ())
            for reason, answer in BAD_ANSWERS:
                if reason == "only a key for encryption":
                    continue  # it is held against the set in the test above
                server.now(answer)
                with pytest.raises(ValueError, match=r"answer|redirects|not a JWKS|none of its keys"):
                    await keys.refresh()
            assert not keys.candidates("one")

    check(story)


def test_redirects_within_the_origin_are_followed() -> None:
    """An issuer may move its set about, as long as it is the same issuer that answers."""

    async def story() -> None:
        async with issuer(jwk(RSA_ONE, "one")) as server:
            server.now(server.answers["/jwks"], "/v2/keys")
            server.now(reply(b"", "301 Moved Permanently", f"Location: {server.url}?old"))
            server.now(reply(b"", "302 Found", "Location: v2/keys"), "/jwks?old")
            keys = JwksKeys(server.url, ())
            await keys.refresher.start()
            assert verifying(keys)(signed(RSA_ONE, "one")) == ALICE
            assert server.asked == ["/jwks", "/jwks?old", "/v2/keys"]
            await keys.refresher.stop()

    check(story)


def test_where_a_redirect_leads_is_said_without_its_secrets() -> None:
    """An operator reads what to set; a password or a query of the other URL is not shown."""

    async def story() -> None:
        async with issuer(jwk(RSA_ONE, "one")) as server:
            server.now(reply(b"", "302 Found", "Location: https://me:hidden@other.example/keys?token=hidden"))
            with pytest.raises(ValueError, match=r"another origin \(https://other\.example/keys\)") as caught:
                await JwksKeys(server.url, ()).refresh()
            assert "hidden" not in str(caught.value)

    check(story)


def test_a_server_that_hangs_does_not_hold_up_the_start() -> None:
    """The fetch goes on in the background: the start, or the first request, waits for less than a second."""

    async def story() -> None:
        async with issuer(jwk(RSA_ONE, None)) as server:
            server.silent = True
            keys = JwksKeys(server.url, ())
            begun_s = loop_time()
            await keys.refresher.start()
            assert loop_time() - begun_s < 1.0
            await keys.refresher.stop()

    check(story)


def test_only_keys_that_are_lost_are_told_as_lost() -> None:
    """What a key has proven stays proven where the set only has one more."""

    async def story() -> None:
        changes = Changes()
        async with issuer(jwk(RSA_ONE, "one")) as server:
            keys = JwksKeys(server.url, ())
            keys.on_change = changes
            await keys.refresh()
            server.now(reply(key_set(jwk(RSA_ONE, "one"), jwk(RSA_TWO, "two"))))
            await keys.refresh()
            assert (changes.count, changes.lost) == (2, 0)
            server.now(reply(key_set(jwk(RSA_TWO, "two"))))
            await keys.refresh()
            assert (changes.count, changes.lost) == (3, 1)

    check(story)


def test_a_password_in_the_url_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A JWKS behind basic authentication does not show its password when it is down."""

    async def story() -> None:
        async with issuer(jwk(RSA_ONE, "one")) as server:
            server.now(reply(b"", "401 Unauthorized"))
            keys = JwksKeys(server.url.replace("//", "//shield:hidden-password@"), ())
            await keys.refresher.start()
            await keys.refresher.stop()

    with caplog.at_level(logging.DEBUG, logger="shieldmw"):
        check(story)
    assert "cannot be refreshed" in caplog.text
    assert "hidden-password" not in caplog.text


@pytest.mark.parametrize(
    ("more", "pinned", "algorithm", "accepted", "reason"),
    [
        ({}, (), "RS256", True, "the usual one"),
        ({}, (), "PS256", False, "not the usual one, and neither named nor pinned"),
        ({"alg": "PS256"}, (), "PS256", True, "named by the set"),
        ({"alg": "PS256"}, (), "RS256", False, "another than the set names"),
        ({"alg": "RS256"}, ("PS256",), "RS256", False, "pins come before names"),
        ({}, ("RS256", "PS256"), "PS256", True, "pinned"),
        ({"alg": "HS256"}, (), "HS256", False, "a set cannot turn a public key into a secret"),
        ({"use": "sig"}, (), "RS256", True, "said to be for signatures"),
        ({"key_ops": ["verify"]}, (), "RS256", True, "likewise"),
    ],
)
def test_the_algorithms_of_a_key_in_a_set(
    more: dict[str, Any], pinned: tuple[str, ...], algorithm: str, accepted: bool, reason: str
) -> None:
    """A key of the set verifies only under algorithms of its type, named by the set or pinned by the settings."""
    rsa_keys = [key.algorithms for key in _parsed(key_set(jwk(RSA_ONE, "one", **more), jwk(P256, "two")), pinned)]
    assert any(algorithm in algorithms for algorithms in rsa_keys) is accepted, reason


def _parsed(text: bytes, pinned: tuple[str, ...]) -> tuple[Any, ...]:
    """The keys; none where the set has no usable one."""
    try:
        return parse_jwks(text, frozenset(pinned))
    except ValueError:
        return ()


def test_a_key_that_cannot_be_used_does_not_spoil_the_others() -> None:
    """Unknown types and symmetric keys are left out; the rest of the set counts."""
    text = key_set({"kty": "XYZ"}, {"kty": "oct", "kid": "s", "k": "c2VjcmV0"}, jwk(RSA_ONE, "one"))
    assert [key.kid for key in parse_jwks(text, frozenset())] == ["one"]
