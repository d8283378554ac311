"""Rules and exemptions beside Starlette's own routing, on random paths.

Two promises: what Starlette hands to a limited handler falls under the handler's rule, and what the policy exempts,
Starlette hands to the exempt handler. Nothing runs: Starlette's routes are asked what they match.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route

from core.plans import charges_of
from shieldmw.core.facts import Facts
from shieldmw.core.limits import Limit
from shieldmw.core.paths import PathPattern, below_root
from shieldmw.core.rules import Policy, Rule

Scope = MutableMapping[str, Any]

relaxed = settings(deadline=None, max_examples=1000)


def never(_: Request) -> Response:
    """No request gets as far as this."""
    raise AssertionError


def rule(name: str, path: str) -> Rule:
    return Rule(name, PathPattern(path), limits=(Limit(name, 1, 1, 1),))


APP = Starlette(
    routes=[
        Route("/healthz", never, name="healthz"),
        Route("/live", never, name="live"),
        Route("/live/{event}", never, name="event"),
        Route("/files/{path:path}", never, name="files"),
        Mount("/api", routes=[Route("/live", never, name="api-live"), Route("/healthz", never, name="api-healthz")]),
    ]
)

# Beside each handler the limit that must be charged there.
RULES = (rule("live", "/live"), rule("event", "/live/*"), rule("files", "/files/*"), rule("api-live", "/api/live"))
POLICY = Policy(rules=RULES, exempt=(PathPattern("/healthz"),))


def routed(routes: Sequence[BaseRoute], scope: Scope) -> str | None:
    """The name of the route that Starlette's router would hand the scope to."""
    for route in routes:
        match, child = route.matches(scope)
        if match is not Match.FULL:
            continue
        if isinstance(route, Mount):
            return routed(route.routes, {**scope, **child})
        assert isinstance(route, Route)
        return route.name
    return None


def http_scope(path: str, root_path: str) -> Scope:
    return {"type": "http", "method": "GET", "path": path, "root_path": root_path}


def facts_of(scope: Scope) -> Facts:
    below = below_root(scope["path"], scope["root_path"])
    return Facts(
        peer=None, path=scope["path"], route_path=below, methods=frozenset({"GET"}), root_path=scope["root_path"]
    )


def charged(policy: Policy, facts: Facts) -> set[str]:
    return {charge.limit.name for charge in charges_of(policy, policy.route_rules(facts), None, None)}


PIECES = [
    *("/", "/", "//", "live", "healthz", "files", "api", "app", "x", "LIVE", "Healthz", "z", ".", "..", "/./", "/../"),
    *("%2e", "%2F", "%00", "%25", "%68", ";a=b", "\\", "\n", "\r", "\x00", "\x85", "\u2028", " ", "é", "ℓ", "?", "#"),
]

GOOD_PATHS = ["/live", "/live/x", "/healthz", "/files/a/b", "/api/live", "/api/healthz"]

noise = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
spoilt = st.builds(
    lambda path, at, piece: path[: at % (len(path) + 1)] + piece + path[at % (len(path) + 1) :],
    st.sampled_from(GOOD_PATHS),
    st.integers(0, 20),
    st.one_of(st.just(""), st.sampled_from(PIECES)),
)
paths = st.one_of(noise.map(lambda text: "/" + text), spoilt, st.text(max_size=12).map(lambda text: "/live/" + text))
root_paths = st.sampled_from(["", "", "/app", "/app/", "/live", "/healthz", "//", "/api"])


@relaxed
@given(paths, root_paths, st.booleans())
@example("/live\n", "", False)
@example("/live/..", "", False)
@example("/files/../healthz", "", False)
@example("/healthz\n", "", False)
def test_starlette_and_the_policy_agree(path: str, root_path: str, below_root: bool) -> None:
    """A path that is routed to a limited handler is charged its limit; one that is exempt is routed to healthz."""
    scope = http_scope(root_path + path if below_root else path, root_path)
    handler = routed(APP.routes, scope)
    facts = facts_of(scope)
    exempt = POLICY.route_rules(facts).exempt
    event(f"handler {handler}, exempt {exempt}")
    if handler in {"live", "event", "files", "api-live"}:
        assert handler in charged(POLICY, facts)
        assert not exempt
    if exempt and scope["path"] != root_path:  # a root path of /healthz itself: nothing is routed there
        assert handler == "healthz"


@relaxed
@given(paths)
def test_the_same_behind_a_mount(path: str) -> None:
    """The shield may sit inside a Mount: rules are written for the path below it, and agree as well."""
    outer = Mount("/mounted", app=APP)
    scope = http_scope("/mounted" + path, "")
    match, child = outer.matches(scope)
    if match is not Match.FULL:
        return
    inner: Scope = {**scope, **child}
    handler = routed(APP.routes, inner)
    facts = facts_of(inner)
    if handler in {"live", "event", "files", "api-live"}:
        assert handler in charged(POLICY, facts)
        assert not POLICY.route_rules(facts).exempt
    if POLICY.route_rules(facts).exempt:
        assert handler == "healthz"


@pytest.mark.parametrize(
    ("path", "handler"),
    [
        ("/live", "live"),
        ("/live\n", "live"),
        ("/live/x", "event"),
        ("/live/..", "event"),
        ("/files/../live", "files"),
        ("/api/live", "api-live"),
        ("/api/healthz", "api-healthz"),
        ("/healthz", "healthz"),
        ("//live", None),
        ("/live/", None),
        ("/LIVE", None),
    ],
)
def test_the_comparison_reaches_every_handler(path: str, handler: str | None) -> None:
    """The routes do what the comparison thinks they do, so that it is not true of nothing."""
    assert routed(APP.routes, http_scope(path, "")) == handler


@pytest.mark.parametrize(
    ("path", "root_path", "why"),
    [
        ("/app/live", "/app", "the ordinary case"),
        ("/app//live", "/app", "two slashes below the root path"),
        ("/app/x/../live", "/app", "dots below the root path"),
        ("//app/live", "/app", "two slashes in front of the root path"),
        ("/x/../app/live", "/app", "dots in front of the root path"),
        ("/app/../app/live", "/app", "dots around the root path"),
        ("/%61pp/live", "/app", "a root path that is still escaped"),
    ],
)
def test_a_root_path_hides_no_rule(path: str, root_path: str, why: str) -> None:
    """A server may resolve the path before it takes the root path away: the rule below it still holds."""
    assert "live" in charged(POLICY, facts_of(http_scope(path, root_path))), why
