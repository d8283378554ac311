"""What a request is charged, by way of the plan that is made for it."""

from __future__ import annotations

from core.addresses import PREFIXES
from shieldmw.core.bucket import Charges
from shieldmw.core.client import Address, Identity, Prefixes
from shieldmw.core.mode import Mode
from shieldmw.core.plan import AddressInfo
from shieldmw.core.routes import Route
from shieldmw.core.rules import Policy, RouteRules


def info(address: Address | None, prefixes: Prefixes = PREFIXES) -> AddressInfo:
    """What is known of an address that is on no list."""
    return AddressInfo(address, *prefixes.cut(address), allowed=False, denied=False)


def charges_of(
    policy: Policy,
    route_rules: RouteRules,
    identity: Identity | None,
    address: Address | None,
    mode: Mode = Mode.NORMAL,
    prefixes: Prefixes = PREFIXES,
) -> Charges:
    """The charges of a request, the narrowest client first; empty if nothing limits it."""
    address_info = info(address, prefixes)
    plan = Route(route_rules, policy, prefixes).plan(mode, identity, has_site=address_info.site is not None)
    return plan.charges(address_info, identity)
