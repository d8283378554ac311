"""Behind a real nginx, and past it: a client remains the same client, whatever headers it sends."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.clients import Answer, ask, fresh_address
from servers import ForwardedFor, HttpServer, asgi_server, clean_environment, nginx

BURST = 4
RULE_BURST = 2
RULES = f'[{{"name": "rule", "path": "/hello", "limits": "{RULE_BURST}/hour"}}]'
NGINX_ADDRESS = "127.0.0.1"
SETTINGS = {
    "SHIELD_IP_LIMIT": f"{BURST}/hour",
    "SHIELD_TRUSTED_PROXIES": f"{NGINX_ADDRESS}/32",
    "SHIELD_RULES": RULES,
    "SHIELD_SECRET": "of no interest to anybody, but long enough",
}
VICTIM = "203.0.113.7"
SHIELDED = "e2e.shielded_app:shielded"

Lines = list[str]

# What the outside may write in X-Forwarded-For, each a list of header lines.
FORGERIES: dict[str, Lines] = {
    "one hop": [VICTIM],
    "several hops": [f"198.51.100.1, {VICTIM}, 198.51.100.2"],
    "several lines": [VICTIM, "198.51.100.1", "198.51.100.2"],
    "the proxy itself": [NGINX_ADDRESS],
    "a trusted hop at the end": [f"{VICTIM}, {NGINX_ADDRESS}"],
    "an IPv6 address": ["2001:db8::1"],
    "a port and brackets": ["[2001:db8::1]:443, 203.0.113.7:99"],
    "empty": [""],
    "commas": [", , ,", ","],
    "no address": ["unknown, localhost, ::1%eth0%0, 1.2.3, 0x7f.1, 01.02.03.04"],
    "an unclosed quote": ['"203.0.113.7'],
    "an unclosed bracket": ["[2001:db8::1"],
    "other alphabets": ["²⁰³.0.113.7".encode().decode("latin-1")],
    "a long hop": ["1" * 7000],
    "many hops": [f"{VICTIM}, " * 500 + VICTIM],
    "many lines": [VICTIM] * 90,
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """The shielded app, which trusts the address of nginx."""
    with asgi_server("uvicorn", SHIELDED, env=SETTINGS, cwd=tmp_path_factory.mktemp("cwd")) as server:
        yield server


@pytest.fixture(scope="module", params=["append", "replace"])
def proxy(request: pytest.FixtureRequest, app: HttpServer) -> Iterator[HttpServer]:
    """nginx in front of it, in both of the ways to set X-Forwarded-For."""
    forwarded_for: ForwardedFor = request.param
    with nginx(app.base_url, forwarded_for=forwarded_for) as server:
        yield server


def _forwarded_for(values: Lines) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", value) for value in values]


def _statuses(server: HttpServer, address: str, forgeries: list[list[tuple[str, str]]]) -> list[int]:
    return [ask(server, address, "/who", headers).status for headers in forgeries]


def _address_seen(answer: Answer) -> str:
    """The client's address as the app was told it; the answer is that of /who."""
    return answer.body.decode().partition('"address":"')[2].partition('"')[0]


# --- X-Forwarded-For ------------------------------------------------------------------------------


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_header_makes_no_new_client(proxy: HttpServer, forged: Lines) -> None:
    """With and without the forged header, a client behind nginx is one client under its own address."""
    address = fresh_address()
    first = ask(proxy, address, "/who", _forwarded_for(forged))
    assert (first.status, _address_seen(first)) == (200, address)
    statuses = _statuses(proxy, address, [[], _forwarded_for(forged)] * BURST)
    assert statuses == [200] * (BURST - 1) + [429] * (BURST + 1)


def test_changing_forgeries_make_no_new_clients(proxy: HttpServer) -> None:
    """A client that writes something else each time gets its burst once."""
    forgeries = [_forwarded_for(forged) for forged in FORGERIES.values()]
    statuses = _statuses(proxy, fresh_address(), forgeries)
    assert statuses.count(200) == BURST
    assert statuses.count(429) == len(forgeries) - BURST


def test_a_header_longer_than_any_chain_makes_no_new_client(proxy: HttpServer) -> None:
    """As many hops as nginx lets through, more than the shield reads: still the one client that nginx saw."""
    address = fresh_address()
    long = _forwarded_for([", ".join([VICTIM] * 500)] * 3)
    statuses = _statuses(proxy, address, [[]] * BURST + [long] * 2)
    assert statuses == [200] * BURST + [429] * 2


def test_a_named_victim_is_not_charged(proxy: HttpServer) -> None:
    """A client that writes another's address is charged itself."""
    attacker, victim = fresh_address(), fresh_address()
    statuses = _statuses(proxy, attacker, [_forwarded_for([victim]), _forwarded_for([victim] * 3)] * BURST)
    assert statuses.count(200) == BURST
    assert _statuses(proxy, victim, [[]] * (BURST + 1)) == [200] * BURST + [429]


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES.keys())
def test_past_the_proxy_the_header_changes_nothing(app: HttpServer, forged: Lines) -> None:
    """A peer that is not trusted is its own address, whatever it writes."""
    address = fresh_address()
    first = ask(app, address, "/who", _forwarded_for(forged))
    assert (first.status, _address_seen(first)) == (200, address)
    statuses = _statuses(app, address, [[], _forwarded_for(forged)] * BURST)
    assert statuses == [200] * (BURST - 1) + [429] * (BURST + 1)


def test_only_the_configured_header_counts(proxy: HttpServer) -> None:
    """Headers that other proxies write are not read."""
    others = ("Forwarded", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP", "X-Client-IP", "X-Forwarded")
    forgeries = [[(name, VICTIM), ("Forwarded", f"for={VICTIM}")] for name in others]
    assert _statuses(proxy, fresh_address(), forgeries) == [200] * BURST + [429] * (len(others) - BURST)


# --- Forwarded ------------------------------------------------------------------------------------

FORWARDED_FORGERIES: dict[str, Lines] = {
    "one hop": [f"for={VICTIM}"],
    "several pairs": [f'For="{VICTIM}:99";proto=https;by=_proxy'],
    "an IPv6 address": ['for="[2001:db8::1]:443"'],
    "no address": ["for=unknown", "for=_hidden"],
    "several hops": [f"for={VICTIM}, for=198.51.100.1"],
    "the proxy itself": [f"for={VICTIM}, for={NGINX_ADDRESS}"],
    "an escape": [f'for="\\{VICTIM}"'],
    "a comma in quotes": ['for="a, for=198.51.100.1"'],
    "no for": ["by=1;proto=http"],
    "empty": [""],
    "an unclosed quote": ['for="'],
    "an unclosed escape": ['for="\\'],
    "a closing quote": [f'x="; for={VICTIM}', '"'],
    "a port without quotes": [f"for={VICTIM}:99"],
    "brackets without quotes": ["for=[::1]"],
    "no pair": ["for", "=", "(", ";;;"],
    "spaces": ["for = x"],
    "a long hop": [f"for={'a' * 7000}"] * 3,
    "many hops": [", ".join([f"for={VICTIM}"] * 400)] * 3,
}


@pytest.fixture(scope="module")
def forwarded_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """nginx that appends to the `Forwarded` of the client, before an app that reads this header."""
    environment = {**SETTINGS, "SHIELD_FORWARDED_HEADER": "forwarded"}
    append = 'proxy_set_header Forwarded "$http_forwarded, for=$remote_addr";'
    with (
        asgi_server("uvicorn", SHIELDED, env=environment, cwd=tmp_path_factory.mktemp("cwd")) as app,
        nginx(app.base_url, extra=append) as proxy,
    ):
        yield proxy


@pytest.mark.parametrize("forged", FORWARDED_FORGERIES.values(), ids=FORWARDED_FORGERIES.keys())
def test_a_forged_forwarded_makes_no_new_client(forwarded_proxy: HttpServer, forged: Lines) -> None:
    """What stands left of the proxy's own element is not believed, and X-Forwarded-For is not read at all."""
    address = fresh_address()
    headers = [("Forwarded", value) for value in forged] + [("X-Forwarded-For", VICTIM)]
    first = ask(forwarded_proxy, address, "/who", headers)
    assert (first.status, _address_seen(first)) == (200, address)
    assert _statuses(forwarded_proxy, address, [headers] * BURST) == [200] * (BURST - 1) + [429]


# --- unix sockets and other readers of the header -------------------------------------------------


def test_a_proxy_on_a_unix_socket_is_believed(tmp_path: Path) -> None:
    """SHIELD_TRUSTED_PROXIES=unix: behind a socket each client has its own address, and forges no other."""
    environment = {**SETTINGS, "SHIELD_TRUSTED_PROXIES": "unix"}
    with (
        asgi_server("uvicorn", SHIELDED, env=environment, cwd=tmp_path, uds=True) as app,
        nginx(app.base_url) as proxy,
    ):
        for address in fresh_address(), fresh_address():
            answer = ask(proxy, address, "/who", _forwarded_for([VICTIM]))
            assert _address_seen(answer) == address
            assert _statuses(proxy, address, [_forwarded_for([VICTIM])] * BURST) == [200] * (BURST - 1) + [429]


def test_unix_peers_are_one_client_unless_trusted(tmp_path: Path) -> None:
    """Without that setting the header changes nothing: all who come by the socket share one bucket."""
    environment = {**SETTINGS, "SHIELD_TRUSTED_PROXIES": ""}
    with (
        asgi_server("uvicorn", SHIELDED, env=environment, cwd=tmp_path, uds=True) as app,
        nginx(app.base_url) as proxy,
    ):
        statuses = [ask(proxy, fresh_address(), "/who").status for _ in range(BURST + 1)]
    assert statuses == [200] * BURST + [429]


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
def test_the_log_says_that_a_proxy_is_not_trusted(trusted: str, tmp_path: Path) -> None:
    """Once, as soon as somebody is refused behind it, and only if SHIELD_TRUSTED_PROXIES is empty."""
    env = {"SHIELD_IP_LIMIT": "2/hour", "SHIELD_TRUSTED_PROXIES": trusted}
    with asgi_server("uvicorn", SHIELDED, env=env, cwd=tmp_path) as server, nginx(server.base_url) as front:
        address = fresh_address()
        assert [ask(front, address, "/hello").status for _ in range(9)] == [200, 200, *[429] * 7]
        log = server.log()
    hints = [line for line in log.splitlines() if "SHIELD_TRUSTED_PROXIES is empty" in line]
    assert len(hints) == (0 if trusted else 1), log
    assert all("set SHIELD_TRUSTED_PROXIES=127.0.0.1" in line and address not in line for line in hints)


def test_uvicorn_forges_the_peer_before_the_shield_sees_it(tmp_path: Path) -> None:
    """With --proxy-headers and '*' anyone is anybody: the reason why `shieldmw check` warns of it."""
    trusting = ("--proxy-headers", "--forwarded-allow-ips", "*")
    address = fresh_address()
    with asgi_server("uvicorn", SHIELDED, env=SETTINGS, cwd=tmp_path, args=trusting) as app:
        answers = [ask(app, address, "/who", _forwarded_for([f"203.0.113.{n}"])) for n in range(BURST + 1)]
    assert [_address_seen(answer) for answer in answers] == [f"203.0.113.{n}" for n in range(BURST + 1)]


def test_check_warns_of_another_reader(tmp_path: Path) -> None:
    """With SHIELD_TRUSTED_PROXIES set, `shieldmw check` says how uvicorn must be started; without it, nothing."""
    warned = _check(SETTINGS, tmp_path)
    assert "warning: " in warned
    assert "--no-proxy-headers" in warned
    assert "--no-proxy-headers" not in _check({**SETTINGS, "SHIELD_TRUSTED_PROXIES": ""}, tmp_path)


def _check(settings: dict[str, str], cwd: Path) -> str:
    command = [sys.executable, "-m", "shieldmw", "check"]
    env = clean_environment(settings)
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, check=True, text=True).stdout


# --- paths ----------------------------------------------------------------------------------------

# Pieces of a request target; a random row of them, between a start and an end, is a spelling.
_STARTS = (
    "/",
    "//",
    "/./",
    "/x/../",
    "/;/",
    "/%2e/",
    "/x/%2e%2e/",
    "/%00/",
    "/healthz/../",
    "/healthz/%2e%2e/",
    "/a;b/../",
)
_NAMES = (
    "hello",
    "%68ello",
    "hell%6f",
    "%2568ello",
    "hello;a=b",
    "hello%3b",
    "hello%00",
    "HELLO",
    "hello%20",
    "hello%2f",
)
_ENDS = ("", "/", "//", "/.", "/..", "/../hello", "?", "?/healthz", "%3f", "%23", "/;", "/healthz", "/../healthz", "\\")


def _spellings(count: int, names: tuple[str, ...]) -> Iterator[str]:
    """Random spellings, the same in each run."""
    chance = random.Random(20240813)
    for _ in range(count):
        yield chance.choice(_STARTS) + chance.choice(names) + chance.choice(_ENDS)


def test_no_spelling_of_a_path_is_cheaper(proxy: HttpServer) -> None:
    """However a limited path is spelled, a client reaches it as often as its rule allows, and no more."""
    address = fresh_address()
    answers = [ask(proxy, address, spelling) for spelling in ("/hello", *_spellings(250, _NAMES))]
    assert 0 < [answer.body for answer in answers].count(b"hello") <= RULE_BURST


@pytest.mark.parametrize(
    "spelling", ["/hello", "//hello", "/hello/", "/./hello", "/x/../hello", "/%68ello", "/hello;a=b"]
)
def test_every_spelling_is_charged_to_the_rule(proxy: HttpServer, spelling: str) -> None:
    """A spelling empties the rule's bucket, whether or not the app finds a route for it."""
    address = fresh_address()
    for _ in range(RULE_BURST):
        assert ask(proxy, address, spelling).status != 429
    refused = ask(proxy, address, "/hello")
    assert refused.status == 429
    assert refused.headers["ratelimit"].startswith('"rule";r=0;')


def test_exempt_look_alikes_are_limited(proxy: HttpServer) -> None:
    """A client that is used up gets through to the exempt path itself and to nothing that looks like it."""
    address = fresh_address()
    assert _statuses(proxy, address, [[]] * (BURST + 1)) == [200] * BURST + [429]
    names = (
        "healthz",
        "%68ealthz",
        "healthzz",
        "healthz;x",
        "x/healthz",
        "healthz/x",
        "HEALTHZ",
        "healthz%00",
        "healthz%2f",
    )
    for spelling in ("/healthz", *_spellings(250, names)):
        answer = ask(proxy, address, spelling)
        assert answer.status in (400, 429) or (answer.status, answer.body) == (200, b"ok"), spelling


def test_no_header_changes_the_path(proxy: HttpServer) -> None:
    """Headers in which other proxies hand on a path exempt nothing."""
    address = fresh_address()
    assert _statuses(proxy, address, [[]] * (BURST + 1)) == [200] * BURST + [429]
    for name, value in (
        ("X-Forwarded-Host", "x/healthz?"),
        ("X-Original-URL", "/healthz"),
        ("X-Rewrite-URL", "/healthz"),
    ):
        assert ask(proxy, address, "/who", [(name, value)]).status == 429
