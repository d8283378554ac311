"""Routes: what the policy says about a path and a method, with the plans that follow from it."""

from __future__ import annotations

from itertools import count

from .client import Address, Identity, ListenerClass, Prefixes
from .mode import Mode
from .plan import Plan
from .rules import Access, Policy, RouteRules

# The numbers of plans, unique in this process.
_numbers = count()

# A policy without default limits, for trying rules in dry run alone.
_RULES_ONLY = Policy()


class Route:
    """Route rules, and their plans by mode, class and family of the address; each is made when it is first needed.

    If some of the rules are in dry run, requests are decided by ``enforced``, the route without them, and then by
    ``trial``, which has nothing else and refuses nobody. The route's own plans charge nothing.
    """

    __slots__ = (
        *("_has_sites", "_of_guests", "_of_subjects", "_policy", "_prefixes"),
        *("enforced", "exempt", "route_rules", "trial"),
    )

    def __init__(self, route_rules: RouteRules, policy: Policy, prefixes: Prefixes) -> None:
        self.route_rules = route_rules
        self.exempt = route_rules.exempt
        self._policy = policy
        self._prefixes = prefixes
        self._has_sites = prefixes.has_sites
        self._of_guests: tuple[dict[Mode, Plan], dict[Mode, Plan]] = {}, {}
        self._of_subjects: dict[tuple[Mode, ListenerClass, bool], Plan] = {}
        self.enforced: Route | None = None
        self.trial: Route | None = None
        if route_rules.trial is not None:
            self.enforced = Route(route_rules._replace(trial=None), policy, prefixes)
            self.trial = Route(route_rules.trial, _RULES_ONLY, prefixes)

    def plan(self, mode: Mode, identity: Identity | None, address: Address | None) -> Plan:
        """The plan of requests with this identity, from this address."""
        has_site = self._has_sites and address is not None and len(address) == 16
        if identity is None:
            plans = self._of_guests[has_site]
            return plans.get(mode) or plans.setdefault(mode, self._new_plan(mode, None, has_site=has_site))
        key = (mode, identity.listener_class, has_site)
        if key not in self._of_subjects:
            self._of_subjects[key] = self._new_plan(mode, identity, has_site=has_site)
        return self._of_subjects[key]

    def _new_plan(self, mode: Mode, identity: Identity | None, *, has_site: bool) -> Plan:
        rules = self.route_rules
        if rules.trial is not None:
            return Plan(next(_numbers), (), self._prefixes, mode, live=rules.live, lease_s=rules.lease_s)
        own = self._policy.terms(rules, has_subject=identity is not None, has_site=has_site, mode=mode)
        shared = self._policy.shared_charges(rules, identity, mode)
        closed = mode is Mode.EMERGENCY and not _may_enter(rules.access, identity)
        return Plan(
            next(_numbers),
            own,
            self._prefixes,
            mode,
            shared=shared,
            live=rules.live,
            lease_s=rules.lease_s,
            closed=closed,
        )


def _may_enter(access: Access, identity: Identity | None) -> bool:
    """Whether a path is open to this class in an emergency."""
    guest = identity is None or identity.listener_class is ListenerClass.GUEST
    return access is Access.OPEN or (access is Access.MEMBERS and not guest)
