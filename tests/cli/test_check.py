"""`shieldmw check`: exit status, and a warning for everything that is unsafe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from jwt.algorithms import RSAAlgorithm

from cli.commands import invoke, shieldmw
from servers import RedisServer, free_port, redis_cluster, redis_sentinels, redis_server
from shieldmw import Settings
from shieldmw.cli.check import store_warnings
from shieldmw.gate.auth import jwks
from store.rights import PASSWORD, user_without

SECRET = "q" * 40


def warnings_of(out: str) -> list[str]:
    """The warnings, without their first word."""
    return [line.removeprefix("warning: ") for line in out.splitlines() if line.startswith("warning: ")]


# --- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ("&shield:*", "may not SUBSCRIBE to shield:{control}:changes: add &shield:*"),
        ("~shield:*", "may not use keys that begin with shield: add ~shield:*"),
        ("+evalsha", "may not run EVALSHA: add +evalsha"),
        ("+script|load", "may not run SCRIPT LOAD: add +script|load"),
        ("+client|setname", "may not run CLIENT SETNAME: add +client|setname"),
    ],
)
def test_a_right_that_is_missing_is_status_1(store: RedisServer, right: str, said: str) -> None:
    """Named with the user and what gives it."""
    ran = invoke("check", SHIELD_REDIS_URL=user_without(store, right))
    assert ran.status == 1
    assert f"error: the ACL user 'shield' of the store {said}" in ran.err.splitlines()
    assert PASSWORD not in ran.printed


def test_a_user_without_info_is_warned_of(store: RedisServer) -> None:
    """The store answers: only its version is not known."""
    url = user_without(store, "+info")
    ran = invoke("check", SHIELD_REDIS_URL=url)
    assert ran.status == 0
    assert [line for line in warnings_of(ran.out) if "INFO" in line] == [
        "the ACL user 'shield' may not run INFO, so version and maxmemory-policy are not known: add +info"
    ]
    assert ran.out.splitlines()[-1] == f"ok: settings are valid, store {url.replace(PASSWORD, '***')}"
    assert store.client().dbsize() == 0


# --- exit status ------------------------------------------------------------------------------------


def test_default_settings_are_all_right() -> None:
    """Nothing to warn of on one worker: status 0, one line."""
    ran = invoke("check")
    assert (ran.status, ran.out, ran.err) == (0, "ok: settings are valid, store memory://\n", "")


def test_a_store_that_answers_is_named_with_its_version(store: RedisServer) -> None:
    """Status 0, and nothing is written to the store by looking."""
    ran = invoke("check", SHIELD_REDIS_URL=store.tcp_url)
    assert ran.status == 0
    assert re.fullmatch(rf"ok: settings are valid, store {store.tcp_url} \(\d+\.\d+\.\d+\)\n", ran.out)
    assert store.client().dbsize() == 0


def test_warnings_do_not_fail_the_check() -> None:
    """Status 0 with warnings: they are for people to judge."""
    ran = invoke("check", "--workers", "4")
    assert ran.status == 0
    assert warnings_of(ran.out)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix"])
def test_a_store_that_is_not_there_is_status_1_and_one_line(scheme: str) -> None:
    """Refused connections are told in one line, without a traceback."""
    url = "unix:///nowhere/valkey.sock" if scheme == "unix" else f"{scheme}://127.0.0.1:{free_port()}"
    ran = shieldmw("check", SHIELD_REDIS_URL=url)
    assert ran.status == 1
    assert len(ran.err.splitlines()) == 1, ran.err
    assert ran.err.startswith(f"error: the store {url} does not answer: ")


def test_a_store_out_of_reach_is_not_said_to_be_reachable() -> None:
    """Warnings about its password and encryption would say more than is known."""
    ran = invoke("check", SHIELD_REDIS_URL="redis://no-such-host.invalid:6379")
    assert (ran.status, warnings_of(ran.out)) == (1, [])


def test_a_store_that_hangs_is_status_1(store: RedisServer) -> None:
    """A frozen server does not freeze the check."""
    store.pause()
    try:
        ran = shieldmw("check", SHIELD_REDIS_URL=store.tcp_url)
    finally:
        store.resume()
    assert (ran.status, len(ran.err.splitlines())) == (1, 1)
    assert "does not answer" in ran.err


@pytest.mark.parametrize(
    "login",
    [":wrong-password", "user:wrong-password", ":wrong-password%40x", ":wrong@password"],
    ids=["password", "user and password", "an escaped @", "a bare @"],
)
def test_a_wrong_password_is_status_1_and_is_not_shown(login: str) -> None:
    """Neither traceback nor any part of the password."""
    with redis_server("valkey", requirepass="right-password") as server:
        ran = shieldmw("check", SHIELD_REDIS_URL=f"redis://{login}@127.0.0.1:{server.port}")
    assert ran.status == 1
    assert len(ran.err.splitlines()) == 1, ran.err
    assert "refused the password: AuthenticationError" in ran.err
    assert "wrong" not in ran.printed.replace("WRONGPASS", "")
    assert "password@" not in ran.printed


def test_a_missing_password_is_status_1() -> None:
    """A server that wants one is not a server that answers."""
    with redis_server("valkey", requirepass="right-password") as server:
        ran = invoke("check", SHIELD_REDIS_URL=f"redis://127.0.0.1:{server.port}")
    assert ran.status == 1
    assert "wants a password: AuthenticationError" in ran.err


def test_the_right_password_is_status_0_and_is_not_shown() -> None:
    """The URL is shown with its password masked."""
    with redis_server("valkey", requirepass="right-password") as server:
        ran = invoke("check", SHIELD_REDIS_URL=server.tcp_url)
    assert ran.status == 0
    assert "right-password" not in ran.printed
    assert f"redis://:***@127.0.0.1:{server.port}" in ran.out


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("redis://127.0.0.1:1/0?password=hidden", "hidden"),
        ("redis://:hid/den@127.0.0.1:1", "hid"),
        ("redis://user:hid/den@127.0.0.1:1", "hid"),
        ("redis://:hid#den@127.0.0.1:1", "hid"),
        ("redis://:hid?den@127.0.0.1:1", "hid"),
        ("redis://user:hidden@127.0.0.1:1", "hidden"),
        ("http://:hidden@127.0.0.1:1", "hidden"),
    ],
    ids=[
        "in the query",
        "with a slash",
        "with a user and a slash",
        "with a hash",
        "with a question mark",
        "with a user",
        "of a wrong scheme",
    ],
)
def test_no_part_of_a_password_is_shown_however_it_is_written(url: str, hidden: str) -> None:
    """Passwords are often not escaped as a URL wants it: the message must not show them even then."""
    ran = invoke("check", SHIELD_REDIS_URL=url)
    assert ran.status in (1, 2)
    assert hidden not in ran.printed


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1?no_such_option=1", "redis://127.0.0.1:1?socket_timeout=soon", "unix:///x?db=one"]
)
def test_an_option_in_the_url_that_cannot_be_is_no_traceback(url: str) -> None:
    """What the client of Redis refuses is said in one line, with status 1 or 2."""
    ran = shieldmw("check", SHIELD_REDIS_URL=url)
    assert ran.status in (1, 2)
    assert len(ran.err.splitlines()) == 1, ran.err[-500:]


def test_the_masters_of_a_cluster_are_counted_and_looked_at() -> None:
    """Status 0, with the version and how many there are; one that evicts is named."""
    with redis_cluster("valkey", password="sesame") as cluster:
        evicting, _, fine = cluster.masters()
        cluster.command(evicting, "CONFIG SET", "maxmemory-policy", "allkeys-lru")
        ran = invoke("check", SHIELD_REDIS_URL=cluster.url, SHIELD_REDIS_TIMEOUT_MS="5000")
        assert cluster.keys() == []
    assert ran.status == 0
    assert re.search(
        r"^ok: settings are valid, store redis\+cluster://:\*\*\*@\S+ \(\d+\.\d+\.\d+, 3 masters\)$", ran.out, re.M
    )
    (warning,) = warnings_of(ran.out)
    assert warning.startswith(f"the store at 127.0.0.1:{evicting.port} evicts (allkeys-lru)")
    assert str(fine.port) not in warning
    assert "sesame" not in ran.printed


def test_the_master_that_sentinels_name_is_told() -> None:
    """Status 0, with where it is and its version; a service that they do not know is status 1."""
    with redis_sentinels("redis", replicas=1) as sentinels:
        port = sentinels.master().port
        ran = invoke("check", SHIELD_REDIS_URL=sentinels.url, SHIELD_REDIS_TIMEOUT_MS="5000")
        other = sentinels.url_of(sentinels.sentinels, "other")
        wrong = invoke("check", SHIELD_REDIS_URL=other, SHIELD_REDIS_TIMEOUT_MS="5000")
    assert (ran.status, warnings_of(ran.out)) == (0, [])
    assert re.search(rf"\(\d+\.\d+\.\d+, master 127\.0\.0\.1:{port}\)$", ran.out, re.M)
    assert (wrong.status, len(wrong.err.splitlines())) == (1, 1)
    assert "knows no service 'other'" in wrong.err


def test_sentinels_with_a_password_are_asked_by_it_and_it_is_not_shown() -> None:
    """Status 0 with it, status 1 and one line without it or with a wrong one."""
    with redis_sentinels("valkey", replicas=1, sentinel_password="right&pass?word") as sentinels:
        url, _, _ = sentinels.url.partition("?")
        right, wrong, missing = (
            shieldmw("check", SHIELD_REDIS_URL=each, SHIELD_REDIS_TIMEOUT_MS="5000")
            for each in (sentinels.url, f"{url}?sentinel_password=sesame", url)
        )
    assert (right.status, right.err) == (0, "")
    assert f"store {url}?*** (" in right.out
    for ran, shown in ((wrong, f"{url}?***"), (missing, url)):
        assert (ran.status, len(ran.err.splitlines())) == (1, 1)
        assert ran.err.startswith(f"error: the store {shown} does not answer: sentinel 127.0.0.1:")
        assert "AuthenticationError" in ran.err
    assert not any(secret in ran.printed for ran in (right, wrong, missing) for secret in ("right", "word?", "sesame"))


@pytest.mark.parametrize(
    "url", ["rediss+cluster://127.0.0.1:1", "rediss+sentinel://127.0.0.1:1/main", "rediss://127.0.0.1:1"]
)
@pytest.mark.parametrize("option", ["ssl_cert_reqs=maybe", "ssl_no_such_option=1", "ssl_min_version=new"])
def test_an_option_of_tls_that_cannot_be_stops_the_start(url: str, option: str) -> None:
    """For one server or many, one line names the variable and the option, with status 2."""
    ran = invoke("check", SHIELD_REDIS_URL=f"{url}?{option}")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "SHIELD_REDIS_URL='rediss" in ran.err
    assert re.search(r"an option cannot be used \(.*(ssl_no_such_option|ssl_min_version|Flag: maybe)", ran.err)


def test_embedded_is_checked_too() -> None:
    """A server is started for the check and ended again."""
    ran = shieldmw("check", SHIELD_REDIS_URL="embedded://")
    assert ran.status == 0, ran.err
    assert ran.out.startswith("ok: settings are valid, store embedded:// (")


# --- warnings ---------------------------------------------------------------------------------------

JWT = {"SHIELD_JWT_SECRET": SECRET, "SHIELD_JWT_AUDIENCE": "shield"}

WARNINGS: list[tuple[str, dict[str, str], tuple[str, ...], str]] = [
    ("memory:// with several workers", {}, ("--workers", "4"), r"memory:// with 4 workers.* 4 times the limits"),
    ("everyone is trusted", {"SHIELD_TRUSTED_PROXIES": "0.0.0.0/0"}, (), r"TRUSTED_PROXIES=0.0.0.0/0: everyone may"),
    ("everyone is trusted, IPv6", {"SHIELD_TRUSTED_PROXIES": "10.0.0.0/8,::/0"}, (), r"TRUSTED_PROXIES=::/0"),
    (
        "a header that nobody writes",
        {"SHIELD_FORWARDED_HEADER": "forwarded"},
        (),
        r"FORWARDED_HEADER=forwarded is not read",
    ),
    (
        "streams that are cut",
        {"SHIELD_UPSTREAM_TOTAL_TIMEOUT_MS": "60000", "SHIELD_LIVE_PATHS": "/live"},
        (),
        r"UPSTREAM_TOTAL_TIMEOUT_MS=60000 ends live streams too",
    ),
    (
        "a second reader of proxy headers",
        {"SHIELD_TRUSTED_PROXIES": "10.0.0.0/8"},
        (),
        r"uvicorn with --no-proxy-headers",
    ),
    (
        "a header with a form of its own",
        {"SHIELD_TRUSTED_PROXIES": "10.0.0.0/8", "SHIELD_FORWARDED_HEADER": "CloudFront-Viewer-Address"},
        (),
        r"FORWARDED_HEADER=cloudfront-viewer-address is read as address:port",
    ),
    (
        "a header with a single value",
        {"SHIELD_TRUSTED_PROXIES": "10.0.0.0/8", "SHIELD_FORWARDED_HEADER": "cf-connecting-ip"},
        (),
        r"FORWARDED_HEADER=cf-connecting-ip is read as one address: the proxy must replace",
    ),
    (
        "a proxy on the allow list",
        {"SHIELD_TRUSTED_PROXIES": "127.0.0.1", "SHIELD_ALLOW_IPS": "127.0.0.0/8,10.0.0.0/8"},
        (),
        r"ALLOW_IPS=127.0.0.0/8 holds a trusted proxy: .* limited all the same",
    ),
    ("JWT without audience", {"SHIELD_JWT_SECRET": SECRET}, (), r"SHIELD_JWT_AUDIENCE is unset"),
    (
        "a webhook without TLS",
        {"SHIELD_WEBHOOK_URL": "http://hooks.example/T0P"},
        (),
        r"SHIELD_WEBHOOK_URL begins with http://: it can be read on the way",
    ),
    (
        "a webhook's secret alone",
        {"SHIELD_WEBHOOK_SECRET": "a-secret-of-some-length"},
        (),
        r"SHIELD_WEBHOOK_SECRET is set without SHIELD_WEBHOOK_URL",
    ),
    (
        "keys fetched without TLS",
        {"SHIELD_JWT_JWKS_URL": "http://id.example/jwks", "SHIELD_JWT_AUDIENCE": "shield"},
        (),
        r"JWKS_URL=http://id.example/jwks: keys fetched without TLS",
    ),
    ("pages with cookies", {"SHIELD_CORS_ORIGINS": "*"}, (), r"CORS_ORIGINS=\*: a page that sends cookies"),
    ("dry run", {"SHIELD_DRY_RUN": "true"}, (), r"DRY_RUN=true: nothing is refused"),
    ("no lane", {"SHIELD_OVERLOAD": "off"}, (), r"SHIELD_OVERLOAD=off: clients who each keep to their limits"),
    (
        "no cap",
        {"SHIELD_CAPACITY": "9", "SHIELD_STREAMS_PER_MEMBER": "0"},
        (),
        r"PER_MEMBER=0: one member can take every",
    ),
    (
        "nor here",
        {"SHIELD_CAPACITY": "9", "SHIELD_STREAMS_PER_ADDRESS": "0"},
        (),
        r"PER_ADDRESS=0: one address can take",
    ),
    ("no limit for guests", {"SHIELD_IP_LIMIT": "off"}, (), r"guests have no limit at all"),
    ("a limit nobody reaches", {"SHIELD_IP_LIMIT": "20000/second"}, (), r"will hardly ever refuse anything"),
    ("everything is exempt", {"SHIELD_EXEMPT_PATHS": "/*"}, (), r"EXEMPT_PATHS exempts every path"),
    ("everyone is allowed", {"SHIELD_ALLOW_IPS": "0.0.0.0/0"}, (), r"ALLOW_IPS allows every address"),
    (
        "an emergency that admits more in all",
        {"SHIELD_IP_LIMIT": "20/minute"},
        (),
        r"SHIELD_EMERGENCY_IP_LIMIT=30/minute is a higher rate than SHIELD_IP_LIMIT=20/minute: set a lower one",
    ),
    (
        "an emergency that admits more at once at a lower rate",
        {"SHIELD_IP_LIMIT": "10/second"},
        (),
        r"SHIELD_EMERGENCY_IP_LIMIT=30/minute lets a guest send 30 requests at once, more than the usual 10: "
        r"10/second,30/minute would not",
    ),
    (
        "an emergency that admits more in the long run",
        {"SHIELD_IP_LIMIT": "20/minute; 100/hour", "SHIELD_EMERGENCY_IP_LIMIT": "10/minute"},
        (),
        r"SHIELD_EMERGENCY_IP_LIMIT=10/minute is a higher rate than",
    ),
    (
        "an emergency without a limit",
        {"SHIELD_EMERGENCY_IP_LIMIT": "off"},
        (),
        r"SHIELD_EMERGENCY_IP_LIMIT=off takes the limit off guests",
    ),
    (
        "an emergency that admits more guests together",
        {"SHIELD_GUESTS_LIMIT": "2000/second"},
        (),
        "SHIELD_EMERGENCY_GUESTS_LIMIT=off takes the limit off guests, who otherwise have "
        "SHIELD_GUESTS_LIMIT=2000/second",
    ),
    (
        "one address that uses up what guests have at once",
        {"SHIELD_GUESTS_LIMIT": "200/second"},
        (),
        r"^SHIELD_IP_LIMIT=300/minute lets one address take 200 of the 200 requests that guests may send at once "
        r"together \(SHIELD_GUESTS_LIMIT=200/second\): 20/second,300/minute would not$",
    ),
    (
        "one address that uses up what guests have in the long run",
        {"SHIELD_GUESTS_LIMIT": "1000/hour"},
        (),
        r"^SHIELD_IP_LIMIT=300/minute lets one address take most of what guests have together "
        r"\(SHIELD_GUESTS_LIMIT=1000/hour\): set a lower one$",
    ),
    (
        "one address that uses up what guests have in an emergency",
        {"SHIELD_EMERGENCY_GUESTS_LIMIT": "50/second"},
        (),
        r"^SHIELD_EMERGENCY_IP_LIMIT=30/minute lets one address take 30 of the 50 .* 5/second,30/minute would not$",
    ),
    (
        "guests with a limit for all of them only",
        {"SHIELD_GUESTS_LIMIT": "1000/second", "SHIELD_IP_LIMIT": "off"},
        (),
        r"^SHIELD_IP_LIMIT=off lets one address take all that guests have together",
    ),
    (
        "a limit of all guests that is rounded",
        {"SHIELD_EMERGENCY_GUESTS_LIMIT": "900000/second"},
        (),
        r"limit 'guests' admits 500000 a second rather than 900000",
    ),
    (
        "an emergency with more seats",
        {"SHIELD_CAPACITY": "10", "SHIELD_EMERGENCY_CAPACITY": "20", "SHIELD_LIVE_PATHS": "/live"},
        (),
        r"SHIELD_EMERGENCY_CAPACITY=20 is more than SHIELD_CAPACITY=10",
    ),
    (
        "an emergency with seats for everyone",
        {"SHIELD_CAPACITY": "10", "SHIELD_EMERGENCY_CAPACITY": "0", "SHIELD_LIVE_PATHS": "/live"},
        (),
        r"SHIELD_EMERGENCY_CAPACITY=0 \(no limit\) is more than SHIELD_CAPACITY=10",
    ),
    (
        "a rate that is rounded",
        {"SHIELD_IP_LIMIT": "600001/second"},
        (),
        r"limit 'ip' admits 500000 a second rather than",
    ),
]


@pytest.mark.parametrize(("env", "args", "expected"), [row[1:] for row in WARNINGS], ids=[row[0] for row in WARNINGS])
def test_what_is_unsafe_is_warned_of(env: dict[str, str], args: tuple[str, ...], expected: str) -> None:
    """One warning says what is wrong; the status stays 0."""
    ran = invoke("check", *args, **env)
    assert ran.status == 0, ran.err
    assert len([line for line in warnings_of(ran.out) if re.search(expected, line)]) == 1, ran.out


@pytest.mark.parametrize(
    "env",
    [
        {"SHIELD_GUESTS_LIMIT": "2000/second"},
        {"SHIELD_GUESTS_LIMIT": "200/second", "SHIELD_IP_LIMIT": "20/second,300/minute"},
        {"SHIELD_GUESTS_LIMIT": "200/second", "SHIELD_IP_BURST": "30"},
        {"SHIELD_GUESTS_LIMIT": "200/second", "SHIELD_ADDRESS_LIMIT": "10/second"},
        {"SHIELD_EMERGENCY_GUESTS_LIMIT": "60/second"},
    ],
)
def test_an_address_with_a_small_part_of_what_guests_have_is_not_warned_of(env: dict[str, str]) -> None:
    """As far as half of it, by any of the limits that it has."""
    assert "one address" not in invoke("check", **env).out


def test_more_api_keys_than_are_meant_are_warned_of(store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker holds all of them: the size that is meant is said."""
    monkeypatch.setattr("shieldmw.cli.check.MOST_MEANT", 3)
    fields = {f"{number:064x}": "{}" for number in range(4)}
    for count, warned in ((3, 0), (4, 1)):
        store.client().hset("shield:api-keys", mapping={**dict(list(fields.items())[:count]), "version": "1"})
        store.client().expire("shield:api-keys", 60)
        lines = [
            line for line in warnings_of(invoke("check", SHIELD_REDIS_URL=store.tcp_url).out) if "API keys" in line
        ]
        assert len(lines) == warned
        assert all(line == "4 API keys are issued, each worker holds them all: meant for 3" for line in lines)


class Issuer(BaseHTTPRequestHandler):
    """Answers by path; `/hangs` does not."""

    def do_GET(self) -> None:
        """The answer."""
        if self.path == "/hangs":
            self.connection.recv(1)  # until the client goes away
            return
        moved = {"/elsewhere": "https://other.example/keys?token=hidden", "/moved": "/keys"}.get(self.path)
        self.send_response(200 if self.path == "/keys" else 302 if moved else 404)
        if moved:
            self.send_header("location", moved)
        self.end_headers()
        if self.path == "/keys":
            key = RSAAlgorithm.to_jwk(generate_private_key(65537, 2048).public_key(), as_dict=True)
            self.wfile.write(json.dumps({"keys": [{**key, "kid": "one"}]}).encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """A real server of keys: where it is, with a password that must not be shown."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Issuer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://me:hidden@127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/keys", None),
        ("/moved", None),
        (
            "/elsewhere",
            r"redirects to another origin \(https://other.example/keys\), which is not followed: set SHIELD",
        ),
        ("/missing", r"answers with status 404$"),
        ("/hangs", r"does not answer within 0.2 s$"),
    ],
)
def test_a_jwks_that_cannot_be_had_is_said_in_one_line(
    issuer: str, path: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no keys every member is a guest: an operator reads why, and no password."""
    monkeypatch.setattr(jwks, "TIMEOUT_S", 0.2 if path == "/hangs" else 20.0)
    ran = invoke("check", SHIELD_JWT_JWKS_URL=issuer + path, SHIELD_JWT_AUDIENCE="shield")
    assert ran.status == 0
    lines = [line for line in warnings_of(ran.out) if line.startswith("no keys at SHIELD_JWT_JWKS_URL=http://me:***@")]
    assert len(lines) == (0 if expected is None else 1), ran.out
    assert all(re.search(expected or "", line) for line in lines), ran.out
    assert "hidden" not in ran.printed


def test_a_jwks_that_refuses_is_said_in_one_line() -> None:
    """Nobody listens there."""
    ran = invoke("check", SHIELD_JWT_JWKS_URL=f"http://127.0.0.1:{free_port()}/keys", SHIELD_JWT_AUDIENCE="shield")
    (line,) = warnings_of(ran.out)
    assert re.search(r"every member would be a guest: does not answer \(ConnectError: .*\)$", line)


@pytest.mark.parametrize(
    ("env", "args", "unexpected"),
    [
        ({}, ("--workers", "1"), "workers"),
        ({"SHIELD_TRUSTED_PROXIES": "10.0.0.0/8"}, (), "everyone may write"),
        ({"SHIELD_TRUSTED_PROXIES": "10.0.0.0/8", "SHIELD_FORWARDED_HEADER": "forwarded"}, (), "is not read"),
        ({"SHIELD_TRUSTED_PROXIES": "10.0.0.0/8"}, (), "is read as"),
        ({"SHIELD_TRUSTED_PROXIES": "10.0.0.0/8", "SHIELD_ALLOW_IPS": "192.0.2.0/24,::/1"}, (), "holds a trusted"),
        (JWT, (), "AUDIENCE"),
        ({"SHIELD_JWT_AUDIENCE": "", **JWT}, (), "AUDIENCE"),
        ({"SHIELD_JWT_JWKS_URL": "https://id.example/jwks"}, (), "without TLS"),
        ({"SHIELD_JWT_JWKS_URL": "http://127.0.0.1/jwks"}, (), "without TLS"),
        ({"SHIELD_JWT_JWKS_URL": "http://localhost:9/jwks"}, (), "without TLS"),
        ({"SHIELD_WEBHOOK_URL": "http://127.0.0.1/T0P"}, (), "WEBHOOK"),
        ({"SHIELD_WEBHOOK_URL": "https://hooks.example/T0P"}, (), "WEBHOOK"),
        ({"SHIELD_IP_LIMIT": "off", "SHIELD_ADDRESS_LIMIT": "5/minute"}, (), "no limit at all"),
        ({"SHIELD_IP_LIMIT": "off", "SHIELD_GUESTS_LIMIT": "5/minute"}, (), "no limit at all"),
        ({"SHIELD_EMERGENCY_GUESTS_LIMIT": "5000/minute"}, (), "EMERGENCY_GUESTS_LIMIT"),
        ({"SHIELD_GUESTS_LIMIT": "5000/minute", "SHIELD_EMERGENCY_GUESTS_LIMIT": "2000/minute"}, (), "GUESTS_LIMIT"),
        ({"SHIELD_EXEMPT_PATHS": "/healthz,/static/*"}, (), "every path"),
        ({"SHIELD_ALLOW_IPS": "10.0.0.0/8"}, (), "every address"),
        ({"SHIELD_CORS_ORIGINS": "https://example.org"}, (), "CORS_ORIGINS"),
        ({"SHIELD_OVERLOAD": "on"}, (), "OVERLOAD"),
        ({"SHIELD_DRY_RUN": "false"}, (), "DRY_RUN"),
    ],
)
def test_what_is_safe_is_not_warned_of(env: dict[str, str], args: tuple[str, ...], unexpected: str) -> None:
    """A warning that comes always would be read never."""
    assert unexpected not in invoke("check", *args, **env).out


@pytest.mark.parametrize(
    "env",
    [
        {"SHIELD_IP_LIMIT": "off", "SHIELD_TOKEN_LIMIT": "off", "SHIELD_RULES": '[{"name": "a", "path": "/a"}]'},
        {"SHIELD_EXEMPT_PATHS": "/,/*"},
        {"SHIELD_ALLOW_IPS": "0.0.0.0/0,::/0"},
        {"SHIELD_IP_LIMIT": "off", "SHIELD_RULES": '[{"name": "r", "path": "/*", "limits": "900000/second"}]'},
        {"SHIELD_IP_LIMIT": "1/minute", "SHIELD_RULES": '[{"name": "free", "path": "/*", "cost": 0}]'},
    ],
    ids=["rules without limits", "all exempt", "all allowed", "a rule of any rate", "no cost"],
)
def test_settings_that_can_never_refuse_anything_are_warned_of(env: dict[str, str]) -> None:
    """However it comes about, a shield that stops nothing is said to be one."""
    ran = invoke("check", **env)
    assert ran.status == 0, ran.err
    assert warnings_of(ran.out)


@pytest.mark.parametrize(
    ("policy", "warned"),
    [
        ("allkeys-lru", True),
        ("allkeys-random", True),
        ("volatile-lru", True),
        ("volatile-random", True),
        ("noeviction", False),
    ],
)
def test_a_store_that_evicts_is_warned_of(store: RedisServer, policy: str, warned: bool) -> None:
    """An evicted bucket is a full one: seen on a real server by its policy."""
    client = store.client()
    client.config_set("maxmemory-policy", policy)
    try:
        ran = invoke("check", SHIELD_REDIS_URL=store.url)
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    assert ran.status == 0
    assert (f"the store evicts ({policy})" in ran.out) is warned


@pytest.mark.parametrize(
    ("url", "warned", "reason"),
    [
        ("redis://redis.example:6379", True, "another machine, no password"),
        ("rediss://redis.example:6379", True, "encrypted, but open to everyone"),
        ("redis://10.0.0.5", True, "a private network is a network"),
        ("redis://user@redis.example", True, "a user alone is no password"),
        ("redis://:secret@redis.example", False, "a password"),
        ("redis://user:secret@redis.example", False, "a user with a password"),
        ("redis://127.0.0.1", False, "loopback"),
        ("redis://127.1.2.3", False, "loopback"),
        ("redis://[::1]:6379", False, "loopback"),
        ("redis://localhost", False, "loopback"),
        ("redis://localhost.example", True, "a name that only begins like loopback"),
        ("unix:///run/redis.sock", False, "no network at all"),
        ("redis+cluster://10.0.0.5:6379,10.0.0.6:6379", True, "nodes on other machines"),
        ("redis+cluster://:secret@10.0.0.5:6379", False, "nodes with a password"),
        ("redis+cluster://127.0.0.1:6379,localhost:6380", False, "loopback"),
        ("redis+sentinel://:secret@10.0.0.5:26379/main", False, "a master with a password"),
        ("redis+sentinel://10.0.0.5/main?sentinel_password=secret", True, "sentinels hold no data"),
        ("memory://", False, "no store at all"),
        ("embedded://", False, "a socket of our own"),
    ],
)
def test_a_store_that_everyone_can_reach_is_warned_of(url: str, warned: bool, reason: str) -> None:
    """Off loopback a store needs a password."""
    warnings = list(store_warnings(Settings(redis_url=url), {}))
    assert any("reachable without a password" in warning for warning in warnings) is warned, reason


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("redis://:x@redis.example", True),
        ("rediss://:x@redis.example", False),
        ("redis://127.0.0.1", False),
        ("redis+cluster://:x@10.0.0.5,10.0.0.6", True),
        ("rediss+cluster://:x@10.0.0.5,10.0.0.6", False),
        ("redis+sentinel://:x@10.0.0.5/main", True),
        ("rediss+sentinel://:x@10.0.0.5/main", False),
    ],
)
def test_an_unencrypted_way_to_the_store_is_warned_of(url: str, warned: bool) -> None:
    """Off loopback the way should be encrypted, and the warning says how."""
    told = [text for text in store_warnings(Settings(redis_url=url), {}) if "not encrypted" in text]
    encrypted = url.partition("://")[0].replace("redis", "rediss") + "://"
    assert [f"use {encrypted} where" in text for text in told] == [True] * warned


def test_workers_are_a_positive_number() -> None:
    """Anything else is a wrong use of the command."""
    for wrong in ("0", "-1", "many"):
        assert invoke("check", "--workers", wrong).status == 2
