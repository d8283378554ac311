"""The answers to refused requests, and the headers added to the answers of admitted ones."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doors.asgi.harness import PEER, Headers, Record, Server, call, http_scope, run, websocket_scope
from doors.asgi.shields import ok, part, start
from shieldmw import Identity, Settings, ShieldMiddleware
from shieldmw.answers.rate_limit import limit_headers
from shieldmw.answers.refusals import RefusalAnswers, RefusalLinks
from shieldmw.core.address import Networks, parse_networks
from shieldmw.core.bucket import Charge, TakeRequest, take, worker_shares
from shieldmw.core.client import Client
from shieldmw.core.decision import Decision, Reason, Verdict, combine
from shieldmw.core.limits import LONGEST_TAU_US, Limit
from shieldmw.core.mode import Mode
from shieldmw.doors.asgi.replies import Replies

TYPES = "https://iana.org/assignments/http-problem-types#"
DENIED: dict[str, Any] = {"deny_ips": Networks(parse_networks(PEER[0]))}
HTML: Headers = [(b"accept", b"text/html,application/xhtml+xml,*/*;q=0.8")]
LINKS = {"recording_url": "https://example.org/recording", "sign_in_url": "https://example.org/sign-in"}


async def by_name(scope: Scope) -> Identity | None:
    """The host app's own check: whoever says a name has it."""
    return next((Identity(value.decode()) for name, value in scope["headers"] if name == b"x-name"), None)


def ask(times: int, scope: Scope, app: ASGIApp = ok, **values: Any) -> list[Record]:
    """The answers to the same request, again and again."""

    async def asking() -> list[Record]:
        shield = ShieldMiddleware(app, Settings(**values), authenticate=by_name)
        return [await call(shield, dict(scope)) for _ in range(times)]

    return run(asking())


def refusal(scope: Scope | None = None, **values: Any) -> Record:
    """The second answer where there is only one to be had."""
    return ask(2, scope or http_scope(), **{"ip_limit": "1/hour", **values})[1]


def problem(record: Record) -> dict[str, Any]:
    """The problem in an answer."""
    found = json.loads(record.body)
    assert isinstance(found, dict)
    return found


# Structured fields (RFC 9651), as far as these two need them: a list of strings with integer parameters.
ITEM = r'"(?P<name>[ !#-\[\]-~]*)"(?P<parameters>(?:;[a-z*][a-z0-9_.*-]*=(?:0|[1-9]\d{0,14}))*)'


def fields(text: str) -> list[tuple[str, dict[str, int]]]:
    """The items of such a field; it must be written strictly."""
    assert re.fullmatch(rf"(?:{ITEM.replace('?P<name>', '').replace('?P<parameters>', '')}(?:, |$))+", text), text
    items = []
    for match in re.finditer(ITEM, text):
        parameters = [word.split("=") for word in match["parameters"].split(";")[1:]]
        items.append((match["name"], {key: int(value) for key, value in parameters}))
    return items


def test_a_refusal_is_a_problem_with_exactly_these_members() -> None:
    """429, problem+json, the members of INTERFACE.md and no other, and the four headers."""
    record = refusal()
    wait = problem(record)["retry_after_ms"]
    assert problem(record) == {
        "type": TYPES + "quota-exceeded",
        "title": "Too many requests",
        "status": 429,
        "detail": "More was asked than the limit allows. Please wait, then try again.",
        "violated-policies": ["ip"],
        "retry_after_ms": wait,
    }
    assert 3_590_000 < wait <= 3_600_000
    assert record.status == 429
    assert [name for name, _ in record.headers] == [
        b"content-type",
        b"content-length",
        b"cache-control",
        b"ratelimit-policy",
        b"ratelimit",
        b"retry-after",
    ]
    assert record.value(b"content-type") == "application/problem+json"
    assert record.value(b"content-length") == str(len(record.body))
    assert record.value(b"cache-control") == "no-store"
    assert record.value(b"ratelimit-policy") == '"ip";q=1;w=3600'
    assert fields(record.value(b"ratelimit")) == [("ip", {"r": 0, "t": 3600})]
    assert wait <= int(record.value(b"retry-after")) * 1000 <= wait * 1.2 + 1000


@given(wait_us=st.integers(1, LONGEST_TAU_US), jitter=st.floats(0, 1, exclude_max=True), html=st.booleans())
@example(wait_us=1, jitter=0.0, html=False)
@example(wait_us=1_000_000, jitter=0.0, html=False)
@example(wait_us=1_000_001, jitter=0.0, html=False)
@example(wait_us=5_000_000, jitter=1 - 2**-53, html=False)
@example(wait_us=LONGEST_TAU_US, jitter=1 - 2**-53, html=False)
@settings(max_examples=500, deadline=None)
def test_retry_after_is_never_early_and_at_most_a_fifth_late(wait_us: int, jitter: float, html: bool) -> None:
    """Whole seconds, not before the request would pass, and at most 20 % after that, rounded up."""
    decision = Decision(Verdict.REFUSED, Reason.QUOTA, None, retry_after_us=wait_us)
    replies = Replies(RefusalAnswers(RefusalLinks(None, None, 300), lambda: jitter))
    refuse = partial(replies.refuse, decision)
    record = run(call(refuse, http_scope(headers=[(b"accept", b"text/html" if html else b"*/*")])))
    seconds, content = int(record.value(b"retry-after")), record.body
    assert seconds * 1_000_000 >= wait_us
    assert seconds <= math.ceil(Fraction(wait_us, 1_000_000) * Fraction(6, 5))
    if html:
        assert b"try again in %d second" % seconds in content
        assert (b"seconds" in content) is (seconds != 1)
    else:
        assert wait_us <= json.loads(content)["retry_after_ms"] * 1000 < wait_us + 1000


@pytest.mark.parametrize(("left_s", "wait_s"), [(0, 300), (40, 40), (4000, 300)])
def test_a_guest_waits_no_longer_than_the_emergency_lasts(left_s: int, wait_s: int) -> None:
    """What is left of it, or SHIELD_RETRY_AFTER if that is shorter: in a refusal, in a page, and in a stream's end."""
    answers = RefusalAnswers(RefusalLinks(None, None, 300), lambda: 0.0)
    admitted = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, None, mode=Mode.EMERGENCY)
    away = admitted.refused_for(Reason.NO_SEAT, left_s * 1_000_000)
    assert json.loads(answers.answer(away, wants_html=False).body)["retry_after_ms"] == wait_s * 1000
    assert b"%d seconds" % wait_s in answers.answer(away, wants_html=True).body
    assert b"\nretry: %d\n" % (wait_s * 1000) in answers.shed_event(away)
    restarting = admitted.refused_for(Reason.RESTARTING)
    assert b"\nretry: 1000\n" in answers.shed_event(restarting)


def test_retry_after_is_jittered() -> None:
    """Those who are refused together are not told to come back together."""
    told = {record.value(b"retry-after") for record in ask(40, http_scope(), ip_limit="1/day")[1:]}
    assert len(told) > 20
    assert all(86_390 <= int(seconds) <= 103_680 for seconds in told)


@pytest.mark.parametrize(
    ("values", "policy", "reason"),
    [
        ({"ip_limit": "5/minute"}, '"ip";q=5;w=60', "burst is the amount: not said"),
        ({"ip_limit": "5/minute", "ip_burst": 5}, '"ip";q=5;w=60', "said by the operator, but the same"),
        ({"ip_limit": "5/minute", "ip_burst": 7}, '"ip";q=5;w=60;burst=7', "more at once"),
        ({"ip_limit": "5/minute", "ip_burst": 2}, '"ip";q=5;w=60;burst=2', "less at once"),
        ({"ip_limit": "9/second; 5/minute"}, '"ip";q=9;w=1, "ip-2";q=5;w=60', "two limits, in their order"),
        ({"ip_limit": "3 per 2 hour"}, '"ip";q=3;w=7200', "a period of several"),
        ({"ip_limit": "5/day", "address_limit": "9/day"}, '"ip";q=5;w=86400, "address";q=9;w=86400', "everyone's too"),
        (
            {"ip_limit": "5/day", "rules": '[{"name": "a-b_c", "path": "/*", "limits": "2/day", "burst": 4}]'},
            '"a-b_c";q=2;w=86400;burst=4, "ip";q=5;w=86400',
            "a rule's limit and its burst",
        ),
    ],
)
def test_the_policies_are_those_charged(values: dict[str, Any], policy: str, reason: str) -> None:
    """RateLimit-Policy names every limit that the request is charged to, as a list of structured fields."""
    (record,) = ask(1, http_scope(), **values)
    assert record.value(b"ratelimit-policy") == policy, reason
    names = [name for name, _ in fields(policy)]
    ((name, level),) = fields(record.value(b"ratelimit"))
    assert name in names
    assert set(level) == {"r", "t"}


@pytest.mark.parametrize(
    ("limits", "nearest", "reason"),
    [
        ("10/day; 100/day", ("ip", 9), "9 of 10 is less than 99 of 100"),
        ("100/day; 10/day", ("ip-2", 9), "whichever stands first"),
        ("10/day; 10/hour", ("ip", 9), "of equals the first"),
    ],
)
def test_ratelimit_is_the_policy_nearest_to_its_end(limits: str, nearest: tuple[str, int], reason: str) -> None:
    """Of several limits RateLimit shows the one with the least share left."""
    (record,) = ask(1, http_scope(), ip_limit=limits)
    ((name, level),) = fields(record.value(b"ratelimit"))
    assert (name, level["r"]) == nearest, reason


def test_nearest_is_by_share_not_by_number() -> None:
    """40 left of 100 are nearer to the end than 19 left of 20."""

    async def asking() -> Record:
        values = Settings(ip_limit="off", address_limit="100/day", token_limit="20/day")
        shield = ShieldMiddleware(ok, values, authenticate=by_name)
        for _ in range(59):
            await call(shield, http_scope())
        return await call(shield, http_scope(headers=[(b"x-name", b"alice")]))

    ((name, level),) = fields(run(asking()).value(b"ratelimit"))
    assert (name, level["r"]) == ("address", 40)


def test_ratelimit_counts_down_to_the_refusal() -> None:
    """What remains goes down by one each time, is 0 on the last answer and on the refusal."""
    records = ask(4, http_scope(), ip_limit="3/day")
    assert [record.status for record in records] == [200, 200, 200, 429]
    levels = [dict(fields(record.value(b"ratelimit")))["ip"] for record in records]
    assert [level["r"] for level in levels] == [2, 1, 0, 0]
    assert [level["t"] for level in levels] == pytest.approx([28800, 57600, 86400, 86400], abs=20)


def test_only_the_limits_that_refused_are_violated() -> None:
    """`violated-policies` names the limit that is empty, not the others that were charged."""
    assert problem(refusal(ip_limit="100/day; 1/hour"))["violated-policies"] == ["ip-2"]


def test_a_share_of_a_limit_is_told_as_what_it_is() -> None:
    """A worker that decides alone tells of its own bucket: the limit's name, and a quarter of rate and burst."""
    charges = worker_shares((Charge(Client("ip", "x", "x"), Limit("ip", 300, 60, 300)),), workers=4)
    decision = combine(charges, take([None], TakeRequest(charges), 0), None, None)
    assert limit_headers(decision) == [
        (b"ratelimit-policy", b'"ip";q=300;w=240;burst=75'),
        (b"ratelimit", b'"ip";r=74;t=1'),
    ]


def test_ipv6_has_the_limit_of_its_site_too() -> None:
    """An IPv6 client sees its own limit and that of its /56, four times as wide."""
    (record,) = ask(1, http_scope(client=("2001:db8::1", 1)), ip_limit="5/minute")
    assert record.value(b"ratelimit-policy") == '"ip";q=5;w=60, "ip-prefix";q=20;w=60'


@pytest.mark.parametrize(
    ("accept", "page", "reason"),
    [
        (b"text/html", True, "a browser"),
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True, "a real one"),
        (b"TEXT/HTML;level=1", True, "in capitals"),
        (b"application/json", False, "a program"),
        (b"*/*", False, "curl"),
        (b"", False, "nothing said"),
        (b"text/plain, application/xhtml+xml", False, "no html"),
    ],
)
def test_browsers_get_a_page_and_programs_a_problem(accept: bytes, page: bool, reason: str) -> None:
    """Only who accepts text/html gets a page."""
    record = refusal(http_scope(headers=[(b"accept", accept)]))
    expected = "text/html; charset=utf-8" if page else "application/problem+json"
    assert record.value(b"content-type") == expected, reason
    assert record.body.startswith(b"<!doctype html>") is page
    assert record.value(b"content-length") == str(len(record.body))


def test_only_accept_asks_for_a_page() -> None:
    """A program that sends HTML, or links to it, has not asked for any."""
    headers = [(b"content-type", b"text/html"), (b"x-accept", b"text/html"), (b"accept", b"application/json")]
    assert refusal(http_scope(headers=headers)).value(b"content-type") == "application/problem+json"


def test_the_page_is_html_with_escaped_links_and_no_json() -> None:
    """The page holds the words, the wait and both links, escaped; nothing in it is a program's."""
    values = {
        "recording_url": "https://example.org/r?a=1&b=\"><script>alert('1')</script>$title",
        "sign_in_url": "https://example.org/s?<&'\"",
    }
    record = refusal(http_scope(headers=HTML), **values)
    page = record.body.decode()
    assert "<h1>Too many requests</h1>" in page
    assert f"You can try again in {record.value(b'retry-after')} seconds." in page
    assert (
        '<a href="https://example.org/r?a=1&amp;b=&quot;&gt;&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;$title">'
        in page
    )
    assert '<a href="https://example.org/s?&lt;&amp;&#x27;&quot;">' in page
    assert "<script" not in page
    assert "violated-policies" not in page
    assert "retry_after_ms" not in page
    assert not re.search(r"\$(title|detail|wait|links)\b(?!\">)", page)
    assert record.value(b"cache-control") == "no-store"


def test_the_page_without_links_has_no_empty_list() -> None:
    """Where the operator gave no URLs there is no list of links."""
    assert b"<ul>" not in refusal(http_scope(headers=HTML)).body


@pytest.mark.parametrize(
    ("name", "expected", "reason"),
    [
        (None, LINKS, "a guest is told both"),
        (b"alice", {"recording_url": LINKS["recording_url"]}, "a member has signed in already"),
    ],
)
def test_the_recording_is_for_all_and_sign_in_for_guests(
    name: bytes | None, expected: dict[str, str], reason: str
) -> None:
    """`recording_url` is told to everyone who is refused, `sign_in_url` only to guests; on the page too."""
    headers = [(b"x-name", name)] if name else []
    values = {"token_limit": "1/hour", **LINKS}
    told = problem(refusal(http_scope(headers=headers), **values))
    assert {key: value for key, value in told.items() if key.endswith("_url")} == expected, reason
    page = refusal(http_scope(headers=[*headers, *HTML]), **values).body.decode()
    assert [url for url in LINKS.values() if url in page] == list(expected.values()), reason


@pytest.mark.parametrize("headers", [[], HTML], ids=["json", "html"])
def test_head_is_refused_with_headers_only(headers: Headers) -> None:
    """HEAD gets the headers that GET would get, its length included, and no body."""
    get = refusal(http_scope(headers=headers))
    head = refusal(http_scope(method="HEAD", headers=headers))
    assert head.status == 429
    assert head.body == b""
    assert [name for name, _ in head.headers] == [name for name, _ in get.headers]
    assert head.value(b"content-type") == get.value(b"content-type")
    assert int(head.value(b"content-length")) == pytest.approx(len(get.body), abs=3)


def unread(scope: Scope, **values: Any) -> Record:
    """A refusal by a shield that must not read."""

    async def asking() -> Record:
        shield = ShieldMiddleware(ok, Settings(**{"ip_limit": "1/day", **values}))
        await call(shield, http_scope())
        server = Server(scope)

        async def receive() -> Message:
            raise AssertionError("nothing of the body is read")

        await shield(scope, receive, server.send)
        return server.record

    return run(asking())


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD", "OPTIONS", "BREW"])
@pytest.mark.parametrize("values", [{}, DENIED], ids=["quota", "denied"])
def test_nothing_of_the_body_is_read_on_refusal(method: str, values: dict[str, Any]) -> None:
    """Whatever the method, a refusal is sent without one call of receive, in two messages that end it."""
    record = unread(http_scope(method=method), **values)
    assert [message["type"] for message in record.sent] == ["http.response.start", "http.response.body"]
    assert not record.sent[-1].get("more_body", False)
    assert record.status == 429


def test_a_denied_address_is_told_of_abnormal_usage() -> None:
    """The deny list answers 429 of its own type, with the configured wait, and no limits since none was charged."""
    (record,) = ask(1, http_scope(), retry_after=100, **DENIED)
    assert problem(record) == {
        "type": TYPES + "abnormal-usage-detected",
        "title": "Abnormal usage detected",
        "status": 429,
        "detail": "Requests from this address are not being served.",
        "retry_after_ms": 100_000,
    }
    assert 100 <= int(record.value(b"retry-after")) <= 120
    assert [record.values(name) for name in (b"ratelimit", b"ratelimit-policy")] == [[], []]
    assert record.value(b"cache-control") == "no-store"


def test_deny_wins_over_allow_and_exempt() -> None:
    """An address on both lists is denied, on an exempt path as well."""
    (record,) = ask(1, http_scope("/healthz"), allow_ips=DENIED["deny_ips"], **DENIED)
    assert problem(record)["type"] == TYPES + "abnormal-usage-detected"


OFFERED: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}


@pytest.mark.parametrize(
    ("headers", "content_type"), [([], "application/problem+json"), (HTML, "text/html; charset=utf-8")]
)
def test_a_websocket_is_refused_with_an_answer_where_the_server_can(headers: Headers, content_type: str) -> None:
    """With `websocket.http.response` the handshake gets the same 429 as a request would."""
    record = unread(websocket_scope(headers=headers, **OFFERED))
    assert [message["type"] for message in record.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert record.status == 429
    assert record.value(b"content-type") == content_type
    assert record.value(b"content-length") == str(len(record.body))
    assert len(record.body) > 100
    assert record.values(b"retry-after")
    assert record.values(b"ratelimit")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "the server offers other things"),
        ({"extensions": {"tls": {}}}, "the same"),
        ({"extensions": None}, "asgiref's types allow None for a server without extensions"),
    ],
)
def test_a_websocket_is_refused_plainly_where_the_server_cannot(more: dict[str, Any], reason: str) -> None:
    """Without the extension the handshake is closed before accept: the server makes a 403 of it."""
    record = unread(websocket_scope(**more))
    (close,) = record.sent
    assert close["type"] == "websocket.close", reason
    assert close["code"] == 1013


def test_a_websocket_of_a_server_without_extensions_is_refused_plainly() -> None:
    """A scope need not have `extensions` at all."""
    scope = websocket_scope()
    del scope["extensions"]
    assert [message["type"] for message in unread(scope).sent] == ["websocket.close"]


@pytest.mark.parametrize("values", [{"ip_limit": "1/day"}, DENIED], ids=["quota", "denied"])
@pytest.mark.parametrize("scope", [http_scope(), websocket_scope()], ids=["http", "websocket"])
def test_a_dry_run_refuses_nothing_and_adds_nothing_to_what_it_would_refuse(
    scope: Scope, values: dict[str, Any]
) -> None:
    """In a dry run what would be refused reaches the app, and its answer is the app's alone."""
    alone = run(call(ok, scope)).sent
    assert [record.sent for record in ask(3, scope, dry_run=True, **values)][1:] == [alone] * 2


def test_a_dry_run_adds_nothing_to_what_is_within_the_limits() -> None:
    """In a dry run no answer tells of limits: a client that kept to them would behave otherwise than without."""
    (record,) = ask(1, http_scope(), dry_run=True)
    assert record.sent == run(call(ok, http_scope())).sent


@pytest.mark.parametrize(
    ("values", "path", "reason"),
    [
        ({"ip_limit": "off"}, "/", "no limit, no headers"),
        ({}, "/healthz", "exempt"),
        ({"allow_ips": DENIED["deny_ips"]}, "/", "allowed"),
    ],
)
def test_without_a_limit_there_are_no_headers(values: dict[str, Any], path: str, reason: str) -> None:
    """Where nothing was charged nothing is added."""
    (record,) = ask(1, http_scope(path), **values)
    assert record.headers == [(b"content-length", b"2")], reason


def test_headers_that_an_app_set_stay() -> None:
    """An app's own RateLimit, Retry-After and Cache-Control lines are kept, before those of the shield."""
    own = [(b"RateLimit", b'"mine";r=1'), (b"ratelimit-policy", b'"mine";q=1'), (b"Retry-After", b"7"), (b"x", b"y")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(503, own))
        await send(part(b""))

    (record,) = ask(1, http_scope(), app)
    assert record.headers[:4] == own
    assert [name for name, _ in record.headers[4:]] == [b"ratelimit-policy", b"ratelimit"]
