"""JWT: which tokens are valid, and every known way to forge one (bypass 7)."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gate.doubles import FAR_AHEAD_S, LONG_AGO_S, FakeClock, clock_of, facts, memory_store, run, worker
from shieldmw import Identity, ListenerClass
from shieldmw.core.client import Proof
from shieldmw.core.credentials import Failure, Rejected
from shieldmw.gate.auth.jwt_tokens import FixedKey, JwtVerifier, KeySource, VerificationKey, public_key, secret_key

SECRET = "s" * 64
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
P256, P384, P521 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))
ED25519, ED448 = ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()

CLAIMS: dict[str, Any] = {"sub": "alice", "exp": FAR_AHEAD_S, "aud": "shield", "iss": "https://id.example"}


def pem(private: Any) -> str:
    """The public half as PEM."""
    text: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def verifier(
    keys: KeySource, audience: str | None = "shield", issuer: str | None = "https://id.example"
) -> JwtVerifier:
    """A verifier as the settings build it."""
    return JwtVerifier(keys, audience=audience, issuer=issuer, class_claim="shield_class")


def by_rsa(algorithms: Sequence[str] = ()) -> JwtVerifier:
    """A verifier with the public RSA key."""
    return verifier(FixedKey(public_key(pem(RSA), algorithms)))


def signed(claims: dict[str, Any] | None = None, key: Any = RSA, algorithm: str = "RS256", **header: Any) -> str:
    """A token."""
    return jwt.encode(CLAIMS if claims is None else claims, key, algorithm, headers=header or None)


def b64(data: bytes) -> str:
    """Base64 as JWTs use it."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def raw(header: bytes, payload: bytes, sign: Callable[[bytes], bytes]) -> str:
    """A token of any bytes, signed over what is sent."""
    signing_input = f"{b64(header)}.{b64(payload)}"
    return f"{signing_input}.{b64(sign(signing_input.encode()))}"


def rs256(data: bytes) -> bytes:
    """The signature that our issuer would make."""
    return jwt.get_algorithm_by_name("RS256").sign(data, RSA)


def issued(payload: bytes) -> str:
    """A token of our issuer with exactly this payload."""
    return raw(b'{"alg":"RS256","typ":"JWT"}', payload, rs256)


def hs256_with(key: bytes) -> Callable[[bytes], bytes]:
    """HMAC with any key, which PyJWT would refuse to make."""
    return lambda data: hmac.new(key, data, hashlib.sha256).digest()


def jwk_of(private: rsa.RSAPrivateKey) -> dict[str, Any]:
    """The public half as a JWK."""
    return dict(jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key(), as_dict=True))


# --- good tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "private", "usual"),
    [
        ("HS256", SECRET, True),
        ("HS384", SECRET, False),
        ("HS512", SECRET, False),
        ("RS256", RSA, True),
        ("RS512", RSA, False),
        ("PS256", RSA, False),
        ("ES256", P256, True),
        ("ES384", P384, True),
        ("ES512", P521, True),
        ("EdDSA", ED25519, True),
        ("EdDSA", ED448, True),
    ],
)
def test_every_algorithm_is_accepted_with_its_key(algorithm: str, private: Any, usual: bool) -> None:
    """A token proves its subject under a pinned algorithm, and under the key's usual one without pinning."""

    def key(algorithms: Sequence[str]) -> VerificationKey:
        return secret_key(SECRET, algorithms) if private is SECRET else public_key(pem(private), algorithms)

    token = signed(key=private, algorithm=algorithm)
    proof = Proof(Identity("alice"), FAR_AHEAD_S)
    assert verifier(FixedKey(key([algorithm]))).verify(token) == proof
    assert verifier(FixedKey(key(()))).verify(token) == (proof if usual else None)


def test_only_pinned_algorithms_count() -> None:
    """A good signature under another algorithm of the same key proves nothing."""
    assert by_rsa(["PS256"]).verify(signed(algorithm="RS256")) is None
    assert by_rsa(["RS256", "PS256"]).verify(signed(algorithm="PS256")) is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"aud": ["other", "shield"]}, "one of several audiences"),
        ({"nbf": LONG_AGO_S}, "valid for long"),
        ({"iat": FAR_AHEAD_S}, "the issuer's clock is ahead: iat is no condition"),
        ({"iat": "yesterday"}, "iat is not looked at"),
        ({"sub": "ä:{}\r\n\x00"}, "any text is a subject"),
        ({"sub": "x" * 1024}, "the longest subject"),
    ],
)
def test_what_is_no_reason_to_doubt(change: dict[str, Any], reason: str) -> None:
    """Tokens that are unusual but in order prove their subject."""
    proof = by_rsa().verify(signed(CLAIMS | change))
    assert proof is not None, reason
    assert proof.identity.subject == change.get("sub", "alice")


def test_without_audience_and_issuer_in_the_settings_neither_is_looked_at() -> None:
    """Where the settings name none, a token may have any or none."""
    free = verifier(FixedKey(public_key(pem(RSA), ())), audience=None, issuer=None)
    for change in ({}, {"aud": "other"}, {"iss": "other"}, {"aud": None}):
        assert free.verify(signed({"sub": "alice", "exp": FAR_AHEAD_S} | change)) is not None


@pytest.mark.parametrize(
    ("claim", "listener_class"),
    [
        ("host", ListenerClass.HOST),
        ("member", ListenerClass.MEMBER),
        ("guest", ListenerClass.GUEST),
        ("HOST", ListenerClass.MEMBER),
        ("admin", ListenerClass.MEMBER),
        ("", ListenerClass.MEMBER),
        (None, ListenerClass.MEMBER),
        (1, ListenerClass.MEMBER),
        (["host"], ListenerClass.MEMBER),
        ({"host": True}, ListenerClass.MEMBER),
        ({"a": [{"b": ["host"]}]}, ListenerClass.MEMBER),
    ],
)
def test_the_class_claim(claim: object, listener_class: ListenerClass) -> None:
    """Only the exact name of a class gives that class; everything else is a member's, and nothing raises."""
    proof = by_rsa().verify(signed(CLAIMS | {"shield_class": claim}))
    assert proof == Proof(Identity("alice", listener_class), FAR_AHEAD_S)


def test_a_token_without_class_claim_is_a_members() -> None:
    """Verified means member."""
    proof = by_rsa().verify(signed())
    assert proof is not None
    assert proof.identity.listener_class is ListenerClass.MEMBER


# --- forged and wrong tokens ------------------------------------------------------------------------

ATTACKER_HEADERS: dict[str, dict[str, Any]] = {
    "jwk": {"jwk": jwk_of(OTHER_RSA)},
    "jku": {"jku": "https://attacker.example/jwks.json"},
    "x5u": {"x5u": "https://attacker.example/cert.pem"},
    "x5c": {"x5c": ["MIIB"]},
    "kid of the right key": {"kid": "right"},
    "kid that is a path": {"kid": "../../../../dev/null"},
    "kid that is SQL": {"kid": "x' UNION SELECT 'secret"},
    "crit": {"crit": ["exp"]},
}

FORGED: list[tuple[str, str]] = [
    ("alg none, no signature", jwt.encode(CLAIMS, "", "none")),
    *[
        (f"alg {name}", raw(json.dumps({"alg": name}).encode(), json.dumps(CLAIMS).encode(), lambda _: b""))
        for name in ("none", "None", "NONE", "nOnE", "", "HS256", "RS256")
    ],
    ("alg none, with our signature", raw(b'{"alg":"none"}', json.dumps(CLAIMS).encode(), rs256)),
    *[
        (
            f"HS256 with the public key as secret, {name}",
            raw(b'{"alg":"HS256","typ":"JWT"}', json.dumps(CLAIMS).encode(), hs256_with(secret)),
        )
        for name, secret in (
            ("PEM", pem(RSA).encode()),
            ("PEM without its last newline", pem(RSA).encode().strip()),
            ("DER", RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
            ("empty secret", b""),
        )
    ],
    ("signed by somebody else", signed(key=OTHER_RSA)),
    *[(f"signed by somebody else, {name}", signed(key=OTHER_RSA, **h)) for name, h in ATTACKER_HEADERS.items()],
    ("another type of key", signed(key=P256, algorithm="ES256")),
    ("wrong audience", signed(CLAIMS | {"aud": "other"})),
    ("no audience", signed({k: v for k, v in CLAIMS.items() if k != "aud"})),
    ("audience that only begins right", signed(CLAIMS | {"aud": "shield.attacker"})),
    ("audience of another type", signed(CLAIMS | {"aud": {"shield": 1}})),
    ("empty list of audiences", signed(CLAIMS | {"aud": []})),
    ("wrong issuer", issued(json.dumps(CLAIMS | {"iss": "https://other.example"}).encode())),
    ("no issuer", signed({k: v for k, v in CLAIMS.items() if k != "iss"})),
    ("issuer of another type", issued(json.dumps(CLAIMS | {"iss": ["https://id.example"]}).encode())),
    ("expired", signed(CLAIMS | {"exp": LONG_AGO_S})),
    ("expired before 1970", signed(CLAIMS | {"exp": -1})),
    ("not yet valid", signed(CLAIMS | {"nbf": FAR_AHEAD_S})),
    ("no exp", signed({k: v for k, v in CLAIMS.items() if k != "exp"})),
    ("no sub", signed({k: v for k, v in CLAIMS.items() if k != "sub"})),
    ("exp null", signed(CLAIMS | {"exp": None})),
    ("sub null", issued(json.dumps(CLAIMS | {"sub": None}).encode())),
    ("sub empty", issued(json.dumps(CLAIMS | {"sub": ""}).encode())),
    ("sub a fraction", issued(json.dumps(CLAIMS | {"sub": 1.5}).encode())),
    ("sub a number with 1025 digits", issued(json.dumps(CLAIMS | {"sub": 10**1024}).encode())),
    ("sub true", issued(json.dumps(CLAIMS | {"sub": True}).encode())),
    ("sub a list", issued(json.dumps(CLAIMS | {"sub": ["alice"]}).encode())),
    ("sub an object", issued(json.dumps(CLAIMS | {"sub": {"id": "alice"}}).encode())),
    ("sub too long", signed(CLAIMS | {"sub": "x" * 1025})),
    ("exp with 400 digits", signed(CLAIMS | {"exp": 10**400})),
    (
        "exp with 5000 digits",
        issued(b'{"sub":"alice","aud":"shield","iss":"https://id.example","exp":' + b"9" * 5000 + b"}"),
    ),
    ("exp infinite", issued(json.dumps(CLAIMS | {"exp": float("inf")}).encode())),
    ("exp minus infinity", issued(json.dumps(CLAIMS | {"exp": float("-inf")}).encode())),
    ("exp no number", issued(json.dumps(CLAIMS | {"exp": float("nan")}).encode())),
    ("exp a list", issued(json.dumps(CLAIMS | {"exp": [FAR_AHEAD_S]}).encode())),
    ("exp a word", issued(json.dumps(CLAIMS | {"exp": "tomorrow"}).encode())),
    ("nbf infinite", issued(json.dumps(CLAIMS | {"nbf": float("inf")}).encode())),
    ("nbf with 400 digits", signed(CLAIMS | {"nbf": 10**400})),
    ("claims that are a list", issued(b"[1,2]")),
    ("claims that are a number", issued(b"1")),
    ("claims that are null", issued(b"null")),
    ("claims that are no JSON", issued(b"{")),
    ("claims that are no UTF-8", issued(b'{"sub":"\xff"}')),
    ("claims nested 2000 deep", issued(b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}")),
    ("claims nested 100,000 deep", issued(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
    ("header nested 2000 deep", raw(b'{"alg":' + b"[" * 2000 + b"]" * 2000 + b"}", b"{}", rs256)),
    ("header nested 100,000 deep", raw(b'{"alg":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"{}", rs256)),
    ("header that is a list", raw(b"[]", json.dumps(CLAIMS).encode(), rs256)),
    ("header that is null", raw(b"null", json.dumps(CLAIMS).encode(), rs256)),
    ("header that is no JSON", raw(b"{", json.dumps(CLAIMS).encode(), rs256)),
    ("header without alg", raw(b"{}", json.dumps(CLAIMS).encode(), rs256)),
    ("alg null", raw(b'{"alg":null}', json.dumps(CLAIMS).encode(), rs256)),
    ("alg a list", raw(b'{"alg":["RS256"]}', json.dumps(CLAIMS).encode(), rs256)),
    ("alg an object", raw(b'{"alg":{"RS256":1}}', json.dumps(CLAIMS).encode(), rs256)),
    ("alg in lower case", raw(b'{"alg":"rs256"}', json.dumps(CLAIMS).encode(), rs256)),
    ("kid a number", raw(b'{"alg":"RS256","kid":1}', json.dumps(CLAIMS).encode(), lambda _: b"x")),
    ("b64 false", raw(b'{"alg":"RS256","b64":false,"crit":["b64"]}', json.dumps(CLAIMS).encode(), rs256)),
    (
        "a critical extension we do not know",
        raw(b'{"alg":"RS256","crit":["x"],"x":1}', json.dumps(CLAIMS).encode(), rs256),
    ),
    ("nothing", ""),
    ("two dots", ".."),
    ("one part", "abc"),
    ("four parts", signed() + ".x"),
    ("five parts, as a JWE has", "a.b.c.d.e"),
    ("bad base64", "!!!.???.***"),
    ("a header of bad base64", "a." + signed().partition(".")[2]),
    ("not ASCII", "ä.ö.ü"),
    ("a lone surrogate", "\ud800.\ud800.\ud800"),
    ("1 MB of dots", "." * 1_000_000),
    ("1 MB of base64", "A" * 500_000 + "." + "A" * 500_000 + ".A"),
    ("its last character changed", signed()[:-6] + "AAAAAA"),
    ("claims exchanged under the signature", ".".join((signed().split(".")[0], b64(b"{}"), signed().split(".")[2]))),
]


@pytest.mark.parametrize("token", [token for _, token in FORGED], ids=[reason for reason, _ in FORGED])
def test_a_forged_or_wrong_token_proves_nobody(token: str) -> None:
    """Whatever a client makes up, the answer is nobody and never an exception."""
    assert by_rsa().verify(token) is None
    assert verifier(FixedKey(secret_key(SECRET, ()))).verify(token) is None


# What reaches the signature check, which alone is charged.
CHECKED = ("alg RS256", "signed by somebody else", "its last character")


@pytest.mark.parametrize(("reason", "token"), FORGED, ids=[reason for reason, _ in FORGED])
def test_a_forged_or_wrong_token_is_a_guests(reason: str, token: str, caplog: pytest.LogCaptureFixture) -> None:
    """At the gate it is a guest's request, charged to the address; to its failures too where a signature was checked.

    The log counts it, and never shows it.
    """
    clock = FakeClock()
    store = memory_store(clock)
    one = worker(store, clock, tokens=by_rsa())
    with caplog.at_level(logging.DEBUG, logger="shieldmw"):
        decision = run(one.gate.decide(facts(token)))
    assert (decision.identity, decision.listener_class) == (None, ListenerClass.GUEST)
    checked = reason.startswith(CHECKED) and not reason.endswith("crit")
    assert (("signature",) in one.identifier.failures, len(store)) == ((True, 2) if checked else (False, 1))
    assert one.identifier.failures.total() == 1
    (record,) = caplog.records
    assert token not in record.getMessage() or not token.strip(".")


@pytest.mark.parametrize(
    ("token", "failure"),
    [
        ("opaque", Failure.MALFORMED),
        ("a.b.c", Failure.MALFORMED),
        (raw(b"[" * 6000, b"{}", rs256), Failure.MALFORMED),
        (signed(crit=["exp-bound"]), Failure.MALFORMED),
        (signed(key=SECRET, algorithm="HS256"), Failure.ALGORITHM),
        (signed(CLAIMS | {"exp": LONG_AGO_S}), Failure.EXPIRED),
        (signed(CLAIMS | {"nbf": FAR_AHEAD_S}), Failure.NOT_YET),
        (signed(CLAIMS | {"aud": "other"}), Failure.AUDIENCE),
        (signed({"sub": "alice", "exp": FAR_AHEAD_S, "iss": "https://id.example"}), Failure.AUDIENCE),
        (signed(CLAIMS | {"iss": "https://id"}), Failure.ISSUER),
        (signed({"sub": "alice", "exp": FAR_AHEAD_S, "aud": "shield"}), Failure.ISSUER),
        (signed({"aud": "shield", "iss": "https://id.example", "sub": "alice"}), Failure.CLAIMS),
        (signed(key=OTHER_RSA), None),
        (signed(), None),
    ],
)
def test_why_a_token_proves_nobody_is_said_without_a_signature_check(token: str, failure: Failure | None) -> None:
    """All but a wrong signature is found by reading; what is right so far must be checked."""
    rejected = by_rsa().screen(token)
    assert (None if rejected is None else rejected.reason) == failure


def test_an_issuer_must_be_the_whole_issuer() -> None:
    """Not a part of it, nor nothing."""
    for issuer in ("https://id", "id.example", "h", ""):
        assert by_rsa().verify(issued(json.dumps(CLAIMS | {"iss": issuer}).encode())) is None


def test_keys_that_have_not_come_yet_are_told_from_a_kid_that_nobody_has() -> None:
    """A token that cannot be judged is no token that failed."""

    class Nothing:
        is_ready = False

        def candidates(self, kid: str | None) -> Sequence[VerificationKey]:
            return ()

    keys = Nothing()
    assert verifier(keys).screen(signed()) == Rejected(Failure.NO_KEYS)
    keys.is_ready = True
    assert verifier(keys).screen(signed()) == Rejected(Failure.UNKNOWN_KID)


# --- times and subjects -----------------------------------------------------------------------------

NOW_S = 2_000_000_000


@pytest.mark.parametrize(
    ("times", "leeway_s", "expected", "reason"),
    [
        ({"exp": NOW_S + 60}, 30, NOW_S + 90, "a proof holds until exp and the leeway"),
        ({"exp": NOW_S - 29}, 30, NOW_S + 1, "the issuer's clock is behind"),
        ({"exp": NOW_S - 30}, 30, Rejected(Failure.EXPIRED), "expired"),
        ({"exp": NOW_S}, 0, Rejected(Failure.EXPIRED), "without leeway the second counts"),
        ({"exp": NOW_S + 1}, 0, NOW_S + 1, "likewise"),
        ({"exp": NOW_S + 60, "nbf": NOW_S + 2}, 30, NOW_S + 90, "the issuer's clock is ahead"),
        ({"exp": NOW_S + 60, "nbf": NOW_S + 30}, 30, NOW_S + 90, "by the whole leeway"),
        ({"exp": NOW_S + 99, "nbf": NOW_S + 31}, 30, Rejected(Failure.NOT_YET, NOW_S + 1), "not yet, but soon"),
        ({"exp": NOW_S + 60, "iat": NOW_S + 40}, 30, NOW_S + 90, "iat is no condition"),
        ({"exp": NOW_S + 60, "nbf": None}, 30, Rejected(Failure.CLAIMS), "no time at all"),
    ],
)
def test_the_leeway_between_the_issuers_clock_and_ours(
    times: dict[str, Any], leeway_s: int, expected: float | Rejected, reason: str
) -> None:
    """A token counts from a little before `nbf` to a little after `exp`."""
    keys = FixedKey(public_key(pem(RSA), ()))
    clock = clock_of(lambda: float(NOW_S))
    one = JwtVerifier(keys, audience=None, issuer=None, class_claim="c", leeway_s=float(leeway_s), clock=clock)
    token = signed({"sub": "alice"} | times)
    if isinstance(expected, Rejected):
        assert (one.screen(token), one.verify(token)) == (expected, None), reason
    else:
        assert (one.screen(token), one.verify(token)) == (None, Proof(Identity("alice"), expected)), reason


def test_a_token_that_is_too_early_counts_from_the_moment_that_it_may() -> None:
    """It is not held against it for longer than that."""
    clock = FakeClock(NOW_S)
    keys = FixedKey(public_key(pem(RSA), ()))
    tokens = JwtVerifier(keys, audience=None, issuer=None, class_claim="c", leeway_s=30.0, clock=clock_of(clock.s))
    one = worker(memory_store(clock), clock, tokens=tokens)
    token = signed({"sub": "alice", "exp": FAR_AHEAD_S, "nbf": NOW_S + 32})

    def who() -> Identity | None:
        return run(one.gate.decide(facts(token))).identity

    assert who() is None
    clock.now_s = NOW_S + 1.999
    assert who() is None
    clock.now_s = NOW_S + 2
    assert who() == Identity("alice")


@pytest.mark.parametrize(
    ("claims", "claim", "subject"),
    [
        ({"user_id": "alice"}, "user_id", "alice"),
        ({"user_id": 42}, "user_id", "42"),
        ({"user_id": 10**300}, "user_id", str(10**300)),
        ({"user_id": -1}, "user_id", "-1"),
        ({"sub": 42}, "sub", "42"),
        ({"sub": 42, "user_id": "alice"}, "user_id", "alice"),
        ({"sub": "alice", "jti": 7}, "sub", "alice"),
        ({"sub": "alice"}, "user_id", None),
        ({"user_id": True}, "user_id", None),
        ({"user_id": 1.0}, "user_id", None),
        ({"user_id": ""}, "user_id", None),
    ],
)
def test_the_claim_that_names_the_subject(claims: dict[str, Any], claim: str, subject: str | None) -> None:
    """The settings say which; text or a whole number."""
    keys = FixedKey(public_key(pem(RSA), ()))
    one = JwtVerifier(keys, audience=None, issuer=None, class_claim="c", subject_claim=claim)
    token = issued(json.dumps(claims | {"exp": FAR_AHEAD_S}).encode())
    proof = one.verify(token)
    assert (None if proof is None else proof.identity.subject) == subject
    assert one.screen(token) == (None if subject else Rejected(Failure.CLAIMS))


@pytest.mark.parametrize("header", ATTACKER_HEADERS.values(), ids=ATTACKER_HEADERS)
def test_a_good_token_is_good_whatever_key_its_header_names(header: dict[str, Any]) -> None:
    """`kid`, `jku`, `jwk` and `x5u` are no reason to believe, and none to doubt our own key's signature."""
    if "crit" in header:
        assert by_rsa().verify(signed(**header)) is None, "an extension that we do not know must be refused"
    else:
        assert by_rsa().verify(signed(**header)) is not None


def test_an_exp_too_large_for_the_clock_never_raises_later() -> None:
    """A proof that would hold for ever is either none, or one that can be compared with the clock."""
    clock = FakeClock()
    one = worker(memory_store(clock), clock, tokens=by_rsa())
    for exp in (10**300, 1e308, 2**63, 2**64):
        token = issued(json.dumps(CLAIMS | {"exp": exp}).encode())
        for _ in range(2):
            run(one.gate.decide(facts(token)))


def test_proofs_and_secrets_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A good token leaves no trace in the log, neither of itself nor of the key."""
    clock = FakeClock()
    one = worker(memory_store(clock), clock, tokens=verifier(FixedKey(secret_key(SECRET, ()))))
    token = signed(key=SECRET, algorithm="HS256")
    with caplog.at_level(logging.DEBUG):
        assert run(one.gate.decide(facts(token))).identity == Identity("alice")
    assert token not in caplog.text
    assert SECRET not in caplog.text


# --- keys of the settings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "algorithms", "reason"),
    [
        ("", (), "nothing"),
        ("not PEM", (), "no PEM"),
        (pem(RSA)[:100], (), "cut off"),
        (pem(x25519.X25519PrivateKey.generate()), (), "a key that signs nothing"),
        (pem(ec.generate_private_key(ec.SECP224R1())), (), "a curve of no JWT algorithm"),
        (pem(RSA), ("HS256",), "HS* with a public key"),
        (pem(RSA), ("ES256",), "an algorithm of another type"),
        (pem(P256), ("ES384",), "an algorithm of another curve"),
        (
            RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            (),
            "the private key, by mistake",
        ),
    ],
    ids=["nothing", "no PEM", "cut off", "signs nothing", "no JWT curve", "HS", "other type", "other curve", "private"],
)
def test_a_key_that_cannot_verify_is_refused_when_it_is_loaded(
    text: str, algorithms: Sequence[str], reason: str
) -> None:
    """Wrong keys and pins stop the start, with a message that does not show the key."""
    with pytest.raises(ValueError, match=r"PEM|cannot be used|verifies no JWT") as caught:
        public_key(text, algorithms)
    assert "PRIVATE KEY" not in str(caught.value), reason


def test_a_secret_is_only_for_hmac() -> None:
    """A shared secret cannot be pinned to a signature algorithm."""
    with pytest.raises(ValueError, match="RS256 cannot be used"):
        secret_key(SECRET, ["HS256", "RS256"])
