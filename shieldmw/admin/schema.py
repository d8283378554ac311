"""The models of admin requests and answers, from which the OpenAPI document is generated."""

from __future__ import annotations

from math import floor
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from shieldmw.core.address import IPNetwork, network_of
from shieldmw.core.client import Prefixes
from shieldmw.core.deny import LONGEST_DENY_S, DenyEntry
from shieldmw.core.mode import LONGEST_S, Mode, ModeChange
from shieldmw.core.seats import MOST_SEATS
from shieldmw.gate.clock import utc
from shieldmw.gate.operator.control import clients_of
from shieldmw.gate.operator.preview import Preview
from shieldmw.gate.operator.status import Status
from shieldmw.gate.operator.top_reports import REPORTED
from shieldmw.settings.fields import matching
from shieldmw.store.port import AUDIT_LENGTH, AuditEntry

from .load import ByClass, OverloadAnswer
from .masking import Answer

LONGEST_REASON = 200
LONGEST_CLIENT = len("token:") + 1024

# Deliberately loose: text that looks like a network but is none gets a clearer message.
CIDR_PATTERN = r"^[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?$"
ACTOR_PATTERN = r"^[!-~]([ -~]{0,62}[!-~])?$"
CLIENT_PATTERN = r"^(ip|token):[^\x00-\x1f\x7f]+$"


def _one_line(text: str) -> str:
    """The text with all white space as single spaces, since it is shown in logs and terminals."""
    line = " ".join(text.split())
    if not line.isprintable():
        raise ValueError("has characters that cannot be printed")
    return line


Reason = Annotated[
    str,
    Field(max_length=LONGEST_REASON, description="Why: kept in the audit log, shown to other operators."),
    AfterValidator(_one_line),
]


def _of_form(pattern: str, right: str) -> tuple[FieldInfo, AfterValidator]:
    """A pattern for the OpenAPI document, and a check whose message says what would be right."""
    shown: FieldInfo = Field(json_schema_extra={"pattern": pattern})
    return shown, AfterValidator(matching(pattern, right))


class Given(BaseModel):
    """Base of models of requests: unknown names are errors, and types are not coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ModeBody(Given):
    """The mode to switch to."""

    mode: Mode
    for_seconds: int | None = Field(
        None, ge=1, le=LONGEST_S, description="When an emergency ends by itself; 7 days if not given."
    )
    capacity: int | None = Field(
        None, ge=0, le=MOST_SEATS, description="Seats of the fleet, 0 for no limit; as configured if not given."
    )
    guest_share: float | None = Field(
        None, ge=0, le=1, description="Share of the seats that guests may hold; as configured if not given."
    )
    reason: Reason = ""

    def change(self, actor: str) -> ModeChange:
        """The change that ``actor`` requests."""
        return ModeChange(self.mode, actor, self.reason, self.for_seconds, self.capacity, self.guest_share)

    @field_validator("for_seconds", "capacity", "guest_share")
    @classmethod
    def _in_emergency(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("mode") is Mode.NORMAL:
            raise ValueError("is only for mode 'emergency': leave it out")
        return value


class PreviewQuery(ModeBody):
    """The change to preview, named as in ``PUT /mode``. Not strict, since numbers in queries are text."""

    model_config = ConfigDict(strict=False)


class DenyBody(Given):
    """A request to deny a network."""

    for_seconds: int = Field(ge=1, le=LONGEST_DENY_S, description="At most 30 days.")
    reason: Reason = ""
    force: bool = Field(False, description="Deny the network even if it contains your own address.")


class ResetBody(Given):
    """The client whose buckets are refilled."""

    client: Annotated[str, *_of_form(CLIENT_PATTERN, "write it like 'ip:203.0.113.7' or 'token:alice'")] = Field(
        max_length=LONGEST_CLIENT,
        examples=["ip:203.0.113.7", "token:alice"],
        description="An address, or a verified subject.",
    )
    reason: Reason = ""

    @field_validator("client")
    @classmethod
    def _names_one(cls, value: str) -> str:
        clients_of(value, Prefixes(32, 64))
        return value


class CidrPath(Given):
    """The network in a route's path."""

    cidr: Annotated[str, *_of_form(CIDR_PATTERN, "write it like 203.0.113.0/24 or 203.0.113.7")] = Field(
        examples=["203.0.113.0/24"], description="A CIDR, or a bare address."
    )

    @field_validator("cidr")
    @classmethod
    def _is_network(cls, value: str) -> str:
        network_of(value)
        return value

    @property
    def network(self) -> IPNetwork:
        """The network that the text names."""
        return network_of(self.cidr)


class AuditQuery(Given):
    """The query of the audit log. Not strict, since numbers in queries are text."""

    model_config = ConfigDict(strict=False)

    count: int = Field(AUDIT_LENGTH, ge=1, le=AUDIT_LENGTH, description="How many of the last changes.")


class TopQuery(Given):
    """The query of the busiest. Not strict, since numbers in queries are text."""

    model_config = ConfigDict(strict=False)

    count: int = Field(20, ge=1, le=REPORTED, description="How many of each kind by requests, and as many by refusals.")


class ActorHeader(Given):
    """The name of the operator, in addition to the token."""

    actor: Annotated[str, *_of_form(ACTOR_PATTERN, "write 1 to 64 printable ASCII characters")] = Field(
        alias="Shield-Actor", description="Your name, for the audit log."
    )


def admin_called(name: str) -> str:
    """The actor as in the audit log: the token's role, and the operator's name."""
    return f"admin ({name})"


class StatusAnswer(Answer):
    """The state of the fleet. Times are Unix seconds by the store's clock, which ``now`` shows."""

    mode: Mode
    version: int
    now: float
    since: float | None
    until: float | None
    seconds_left: int | None = Field(description="Until an emergency ends by itself.")
    actor: str
    reason: str
    capacity: int | None = Field(description="Seats of the fleet in this mode; null for no limit.")
    guest_seats: int | None = Field(description="How many of them guests may hold.")
    guest_share: float
    requested_capacity: int | None = Field(
        description="As given with the emergency, 0 for no limit; null: as configured."
    )
    requested_guest_share: float | None = Field(description="As given with the emergency; null: as configured.")
    counted: str = Field(description="Whose seats and demand: the `fleet`'s, or those of the `worker` that answers.")
    seats: ByClass = Field(description="Listeners who hold a seat.")
    leased: ByClass = Field(description="Of these, clients that poll and hold a lease seat.")
    demand: ByClass | None = Field(description="Listeners who hold one or were lately turned away; null if unknown.")
    granted_here: int | None = Field(description="Seats granted to the worker that answers.")
    workers: int | None = Field(description="Workers that share the seats; null where no capacity is set.")
    store: str = Field(description="`up` or `away`, as seen by the worker that answers.")
    overload: OverloadAnswer = Field(description="The load of the workers' apps.")
    dry_run: bool = Field(description="Nothing is refused and nobody has to leave: it is only counted and logged.")
    settings: dict[str, str | None] = Field(description="Every variable as it is in force, secrets masked.")
    limits_version: int = Field(description="Of the last change of limits: see /limits.")
    limits_ignored: list[str] = Field(description="What of it does not fit the settings of the answering worker.")

    @classmethod
    def of(cls, status: Status) -> StatusAnswer:
        """Convert the gate's status."""
        now_s, change, seats = status.now_s, status.mode, status.seats
        mode = change.at(now_s)
        until_s = change.until_s if mode is Mode.EMERGENCY else None
        return cls(
            mode=mode,
            version=change.version,
            now=now_s,
            since=change.since_s if change.version else None,
            until=until_s,
            seconds_left=None if until_s is None else max(0, round(until_s - now_s)),
            actor=change.actor,
            reason=change.reason,
            capacity=None if seats.capacity is None else seats.capacity.seats,
            guest_seats=None if seats.capacity is None else seats.capacity.guest_seats,
            guest_share=seats.guest_share,
            requested_capacity=change.capacity if mode is Mode.EMERGENCY else None,
            requested_guest_share=change.guest_share if mode is Mode.EMERGENCY else None,
            counted="fleet" if seats.fleet_wide else "worker",
            seats=ByClass.of(seats.present),
            leased=ByClass.of(seats.leased),
            demand=None if seats.demand is None else ByClass.of(seats.demand),
            granted_here=None if seats.granted is None else seats.granted.seats,
            workers=seats.workers,
            store="up" if status.store_is_up else "away",
            overload=OverloadAnswer.of(status.overload),
            dry_run=status.dry_run,
            settings=dict(status.settings),
            limits_version=status.limits.version,
            limits_ignored=list(status.limits.ignored),
        )


class PreviewAnswer(Answer):
    """What a change of the mode would do now. Listeners: with a seat they stay or leave, without one they come in or
    wait."""

    mode: Mode
    capacity: int | None = Field(description="Seats of the fleet in that mode; null for no limit.")
    guest_seats: int | None = Field(description="How many of them guests may hold.")
    guest_share: float
    counted: str = Field(description="Whose listeners: the `fleet`'s, or those of the `worker` that answers.")
    stay: ByClass
    leave: ByClass
    come: ByClass
    wait: ByClass
    guest_limit: str = Field(description="The limit of guests, per address.")
    guests_limit: str = Field(description="The limit of all guests together.")
    refused_at_most: float = Field(
        description="Requests a second that are let in now by the workers of this `serve`, and may be refused then: "
        "a bound, since how many will be depends on who sends them."
    )
    closed: tuple[str, ...] = Field(description="Rules whose paths are closed to everyone.")
    members_only: tuple[str, ...] = Field(description="Rules whose paths are closed to guests.")

    @classmethod
    def of(cls, preview: Preview) -> PreviewAnswer:
        """Convert the gate's preview."""
        capacity, listeners = preview.capacity, preview.listeners
        return cls(
            mode=preview.mode,
            capacity=None if capacity is None else capacity.seats,
            guest_seats=None if capacity is None else capacity.guest_seats,
            guest_share=preview.guest_share,
            counted="fleet" if preview.fleet_wide else "worker",
            stay=ByClass.of(listeners.stay),
            leave=ByClass.of(listeners.leave),
            come=ByClass.of(listeners.come),
            wait=ByClass.of(listeners.wait),
            guest_limit=preview.guest_limit,
            guests_limit=preview.guests_limit,
            refused_at_most=round(preview.most_refused, 1),
            closed=preview.closed,
            members_only=preview.members_only,
        )


class AuditItem(BaseModel):
    """One entry of the audit log."""

    when: float
    when_utc: str
    who: str
    what: str
    was: str = Field(serialization_alias="from")
    now: str = Field(serialization_alias="to")
    why: str

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditItem:
        """Convert an entry of the store."""
        when = entry.when_s
        return cls(
            when=when, when_utc=utc(when), who=entry.who, what=entry.what, was=entry.was, now=entry.now, why=entry.why
        )


class AuditAnswer(Answer):
    """The last changes, newest first."""

    entries: list[AuditItem]


class DenyItem(Answer):
    """A denied network."""

    cidr: str
    until: float
    seconds_left: int = Field(description="Whole seconds, rounded down: never more than was asked for.")
    actor: str
    reason: str

    @classmethod
    def of(cls, entry: DenyEntry, now_s: float) -> DenyItem:
        """Convert an entry of the deny list."""
        left_s = max(0, floor(entry.until_s - now_s))
        cidr = str(entry.network)
        return cls(cidr=cidr, until=entry.until_s, seconds_left=left_s, actor=entry.actor, reason=entry.reason)


class DenyAnswer(Answer):
    """Every network that is denied now."""

    entries: list[DenyItem]


class ResetAnswer(Answer):
    """The clients whose buckets were refilled."""

    clients: list[str]
