"""Helper: the charges of a request, computed through its plan."""

from __future__ import annotations

from core.addresses import PREFIXES
from shieldmw.core.bucket import Charges
from shieldmw.core.client import Address, Identity, Prefixes
from shieldmw.core.mode import Mode
from shieldmw.core.routes import Route
from shieldmw.core.rules import Policy, RouteRules


def charges_of(
    policy: Policy,
    route_rules: RouteRules,
    identity: Identity | None,
    address: Address | None,
    mode: Mode = Mode.NORMAL,
    prefixes: Prefixes = PREFIXES,
) -> Charges:
    """The charges of a request, the narrowest client first; empty if nothing limits it."""
    plan = Route(route_rules, policy, prefixes).plan(mode, identity, address)
    return plan.charges(address, identity)
