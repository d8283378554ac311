"""What this worker remembers of one client between its requests, so that a hot client is decided quickly."""

from __future__ import annotations

from shieldmw.core.bucket import Charges
from shieldmw.core.client import AddressClients, Identity, ListenerClass
from shieldmw.core.decision import Decision
from shieldmw.core.lease import Lease
from shieldmw.core.mode import Mode
from shieldmw.core.rules import Access, Policy, RouteRules

from .pool import LONG_AGO_US
from .shared_limits import SharedCharges

# What one client can be charged differs by rules and mode: a handful of ways.
MOST_CLIENT_STATES = 16


class ClientState:
    """What is remembered of one client under one set of route rules, in one mode: its charges, and what came of them.

    ``closed``: its class may not be here now. ``lease`` is its open lease, ``opened_us`` since when; ``prefetch``
    how much was last asked for; ``asked_us`` when its requests last had to ask the store, ``asking`` whether
    one of them asks for a lease now. ``refusal`` was decided at ``refused_us`` and may be given again until
    ``refusal_until_us``. Times are this worker's ticks. ``shared`` is what it is charged together with others, once
    that is known, and ``all_charges`` are both.
    """

    __slots__ = (
        *("charges", "closed", "identity", "live", "mode", "route_rules"),
        *("prefetch", "asked_us", "asking", "lease", "opened_us"),
        *("refusal", "refusal_until_us", "refused_us"),
        *("all_charges", "knows_shared", "shared"),
    )

    def __init__(self, charges: Charges, identity: Identity | None, mode: Mode, route_rules: RouteRules) -> None:
        self.charges = charges
        self.identity = identity
        self.mode = mode
        self.route_rules = route_rules
        self.live = route_rules.live
        self.closed = mode is Mode.EMERGENCY and not _may_enter(route_rules.access, identity)
        self.lease: Lease | None = None
        self.opened_us = 0
        self.prefetch = 0
        self.asked_us = LONG_AGO_US
        self.asking = False
        self.refusal: Decision | None = None
        self.refused_us = 0
        self.refusal_until_us = LONG_AGO_US
        self.all_charges = charges
        self.knows_shared = False
        self.shared: SharedCharges | None = None


class ClientStates:
    """The states of one client, one for each set of route rules and mode, at most ``MOST_CLIENT_STATES``."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[RouteRules, Mode, str | None], ClientState] = {}

    def of(
        self, policy: Policy, route_rules: RouteRules, identity: Identity | None, clients: AddressClients, mode: Mode
    ) -> ClientState:
        """The state under these rules."""
        # A member's charges hold an address only where everyone's address is limited.
        key = (route_rules, mode, clients.one.text if identity is not None and policy.address else None)
        client_state = self._known.get(key)
        if client_state is None:
            if len(self._known) >= MOST_CLIENT_STATES:
                del self._known[next(iter(self._known))]
            charges = policy.charges(route_rules, identity, clients, mode)
            client_state = self._known[key] = ClientState(charges, identity, mode, route_rules)
        return client_state


def _may_enter(access: Access, identity: Identity | None) -> bool:
    """Whether a path is open to this class in an emergency."""
    guest = identity is None or identity.listener_class is ListenerClass.GUEST
    return access is Access.OPEN or (access is Access.MEMBERS and not guest)
