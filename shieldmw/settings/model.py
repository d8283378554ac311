"""The model of all settings. Each variable is read once, by ``Settings.from_environ``."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from shieldmw.core.address import Networks
from shieldmw.core.client import Identity
from shieldmw.core.decision import OnStoreFailure
from shieldmw.core.limits import parse_limits
from shieldmw.core.paths import PathPattern
from shieldmw.core.rules import Limits, Policy, Rule, Scope
from shieldmw.errors import SettingsError

from .fields import (
    HMAC_ALGORITHMS,
    AdminPath,
    AdminToken,
    Algorithms,
    ForwardedHeader,
    JwksUrl,
    KeyPrefix,
    LimitText,
    Name,
    NetworkSet,
    OptionalTokenHeader,
    Origins,
    Patterns,
    RecordingUrl,
    Secret,
    SignInUrl,
    StoreUrl,
    WebhookUrl,
    Whole,
)
from .names import wrong_names
from .policy import (
    EMERGENCY_LIMIT_FIELDS,
    LIMIT_FIELDS,
    burst_field,
    read_api_keys,
    read_public_key,
    redirect_problems,
    rule_problems,
)
from .problems import COMMAND_VARIABLES, ENV_PREFIX, problem, problems_of, variable
from .rules import parse_rules, read_rules


class Settings(BaseSettings):
    """All settings, checked. ``Settings(...)`` takes values by name and ignores the environment;
    ``Settings.from_environ()`` reads the ``SHIELD_*`` variables.

    Raises:
        SettingsError: holds a line for each setting that is wrong.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, env_prefix=ENV_PREFIX, hide_input_in_errors=True
    )

    redis_url: StoreUrl = Field(
        "memory://",
        repr=False,
        description="where the buckets are: `redis://`, `rediss://`, `unix://`, "
        "`redis+cluster://host:port,…`, `redis+sentinel://host:port,…/service`, by TLS `rediss+cluster://` and "
        "`rediss+sentinel://`, `memory://` (one process), `embedded://` (a Valkey server of our own, shared by the "
        "workers of one server)",
    )
    redis_timeout_ms: Whole = Field(50, ge=1, le=10_000, description="budget of one call to the store, in milliseconds")
    key_prefix: KeyPrefix = Field("shield", description="first part of every key")
    secret: Secret | None = Field(
        None,
        description="keys the digests of clients, at least 32 characters; unset, one is made once and kept in the "
        "store; set it where the store is shared with others",
    )
    on_redis_failure: OnStoreFailure = Field(
        OnStoreFailure.LOCAL,
        description="while the store is away: `local` (each worker decides by its share), `open` (all pass), "
        "`closed` (limited requests are refused)",
    )
    leases: bool = Field(
        True,
        description="charge frequent clients a little in advance, to save calls; unused units are given back "
        "within a second",
    )
    ip_limit: LimitText = Field("300/minute", description="limit of guests, per address; several with commas, or `off`")
    ip_burst: Whole | None = Field(
        None, ge=1, description="burst of a single SHIELD_IP_LIMIT: requests at once; its amount if unset"
    )
    token_limit: LimitText = Field("1200/minute", description="limit of each verified subject")
    token_burst: Whole | None = Field(None, ge=1, description="burst of SHIELD_TOKEN_LIMIT")
    address_limit: LimitText = Field("off", description="limit of everyone on an address together, guests and members")
    address_burst: Whole | None = Field(None, ge=1, description="burst of SHIELD_ADDRESS_LIMIT")
    guests_limit: LimitText = Field(
        "off",
        description="limit of all guests together, on all workers, except in an emergency; preflights do not count",
    )
    failed_auth_limit: LimitText = Field(
        "10/minute",
        description="limit of failed signature checks, per address; beyond it, tokens from there are verified within a "
        "share of the worker's time",
    )
    rules: Annotated[tuple[Rule, ...], NoDecode, BeforeValidator(parse_rules)] = Field(
        (),
        description="limits for paths, as JSON: a list of "
        "`{name, path, methods, limits, burst, cost, per, live, polled, lease_seconds, emergency, dry_run}`",
    )
    rules_file: Path | None = Field(None, description="the same in a `.json` or `.toml` file (`[[rules]]`)")
    exempt_paths: Patterns = Field(
        (PathPattern("/healthz"),),
        description="paths that are never limited; exact, or ending in `/*`; separated by commas",
    )
    live_paths: Patterns = Field((), description="paths whose responses hold a seat; exact, or ending in `/*`")
    polled_paths: Patterns = Field(
        (),
        description="paths whose clients hold a lease seat of 30 s, which their polls renew (HLS, DASH); exact, or "
        "ending in `/*`; rules have `polled` and `lease_seconds`",
    )
    ticket_in_playlists: bool = Field(
        False,
        description="write the ticket into the relative URIs of HLS playlists and DASH manifests on polled paths, for "
        "players without cookies",
    )
    dry_run: bool = Field(False, description="decide, count and log, but refuse nothing")
    trusted_proxies: NetworkSet = Field(
        Networks(), description="CIDRs of the proxies whose header is believed; `unix` for peers on a unix socket"
    )
    forwarded_header: ForwardedHeader = Field(
        "x-forwarded-for",
        description="the header those proxies write: also `forwarded`, or one with a single value such as "
        "`cf-connecting-ip` or `cloudfront-viewer-address`",
    )
    ipv4_prefix: Whole = Field(32, ge=8, le=32, description="bits of an IPv4 address that identify a client")
    ipv6_prefix: Whole = Field(64, ge=16, le=128, description="bits of an IPv6 address that identify a client")
    allow_ips: NetworkSet = Field(
        Networks(), description="CIDRs that are never limited; never a trusted proxy whose header names no client"
    )
    deny_ips: NetworkSet = Field(Networks(), description="CIDRs that are always refused; deny wins")
    token_header: OptionalTokenHeader = Field(
        "authorization",
        description="header that carries a credential, as `Bearer x`, `JWT x` or bare; or "
        "`sec-websocket-protocol`, where pages offer `bearer, x` or `bearer.x`; or `off`",
    )
    token_cookie: Name | None = Field(None, description="cookie that carries a credential")
    token_query: Name | None = Field(
        None, description="query parameter that carries a credential, for WebSocket and EventSource"
    )
    api_keys_file: Path | None = Field(
        None, description="lines `sha256-hex subject [class]`; more keys are issued with `shieldmw keys`"
    )
    jwt_secret: Secret | None = Field(None, description="verifies JWTs signed with HS*, at least 32 characters")
    jwt_public_key: str | None = Field(None, description="verifies JWTs: a public key in PEM, or the path of one")
    jwt_jwks_url: JwksUrl | None = Field(
        None,
        repr=False,
        description="verifies JWTs: where the issuer's JWKS is; redirects within its origin are followed",
    )
    jwt_algorithms: Algorithms = Field((), description="pinned algorithms; by the type of the key if unset")
    jwt_audience: str | None = Field(None, description="`aud` that a JWT must have")
    jwt_issuer: str | None = Field(None, description="`iss` that a JWT must have")
    jwt_class_claim: str = Field("shield_class", description="claim that holds the class: `host` or `member`")
    jwt_subject_claim: str = Field(
        "sub", min_length=1, description="claim that names the subject: text or a whole number"
    )
    jwt_leeway: Whole = Field(
        30, ge=0, le=3600, description="seconds by which the issuer's clock may differ, for `exp` and `nbf`"
    )
    capacity: Whole = Field(0, ge=0, description="seats of the fleet in normal mode, 0 for no limit")
    emergency_capacity: Whole | None = Field(
        None, ge=0, description="seats in emergency, 0 for no limit; as SHIELD_CAPACITY if unset"
    )
    emergency_guest_share: float = Field(
        0,
        ge=0,
        le=1,
        description="part of the seats that guests may hold in emergency; 0 turns guests away from live "
        "paths whatever the capacity",
    )
    emergency_ip_limit: LimitText = Field("30/minute", description="limit of guests, per address, in emergency")
    emergency_guests_limit: LimitText = Field(
        "off",
        description="limit of all guests together, on all workers, in emergency; with `off` there is none then, "
        "even if "
        "SHIELD_GUESTS_LIMIT is set",
    )
    streams_per_member: Whole = Field(
        3, ge=0, description="live streams of one subject, fleet-wide: the newest stay; 0 for no limit"
    )
    streams_per_address: Whole = Field(
        20,
        ge=0,
        description="live streams of guests from one address (for IPv6 of one /64), fleet-wide: the newest is refused; "
        "0 for no limit",
    )
    overload: Literal["on", "shadow", "off"] = Field(
        "on",
        description="if the app is overloaded: `on` (hosts go first, then members, and guests who would wait too long "
        "get 503), `shadow` (that is only counted and logged) or `off`",
    )
    max_in_flight: Whole = Field(
        0,
        ge=0,
        description="maximum of requests inside the app of one worker, until their responses begin; 0: learnt from "
        "response times",
    )
    queue_ms: Whole = Field(
        100,
        ge=1,
        le=10_000,
        description="longest wait of a guest for its turn, in milliseconds; members wait up to ten times as long",
    )
    hold_ms: Whole = Field(
        400,
        ge=0,
        le=10_000,
        description="delay of the 503 for a guest who is shed, in milliseconds, up to three times as long if there are "
        "many: clients that retry as soon as they are answered would use up the app's time",
    )
    recording_url: RecordingUrl | None = Field(None, description="link to a recording, for clients that are refused")
    redirect_to_recording: bool = Field(
        False,
        description="redirect guests who poll a playlist and find no seat to SHIELD_RECORDING_URL, a playlist of the "
        "same kind (`.m3u8` or `.mpd`)",
    )
    sign_in_url: SignInUrl | None = Field(None, description="link to sign in, for guests who are refused")
    cors_origins: Origins = Field(
        (),
        description="origins whose pages may read refusals and their `Retry-After`, such as `https://example.org`, "
        "separated by commas; `*` for all, without cookies",
    )
    websocket_refusals: Literal["http", "close"] = Field(
        "http",
        description="a refused WebSocket gets: `http` (429 or 503, of which pages see only code 1006) or `close` "
        "(accepted, then closed with 1013, 1012 or 1008 and a reason that holds the wait)",
    )
    retry_after: Whole = Field(
        300,
        ge=1,
        le=86_400,
        description="`Retry-After` of clients that are turned away, in seconds; on live paths at most until an "
        "emergency "
        "ends; jittered by up to +20 %",
    )
    upstream_host: Literal["keep", "rewrite"] = Field(
        "keep",
        description="`Host` for the upstreams of `shieldmw serve --upstream`: `keep` (the client's) or `rewrite` (the "
        "upstream's own name)",
    )
    upstream_connections: Whole = Field(
        1024, ge=1, le=100_000, description="maximum of connections from one worker to each upstream, streams included"
    )
    upstream_connect_timeout_ms: Whole = Field(
        5000,
        ge=1,
        le=600_000,
        description="longest wait for a connection to an upstream, new or free again, in milliseconds",
    )
    upstream_head_timeout_ms: Whole = Field(
        60_000,
        ge=1,
        le=86_400_000,
        description="longest wait for an upstream's answer to begin, once it has the whole request, in milliseconds",
    )
    upstream_idle_timeout_ms: Whole = Field(
        300_000,
        ge=1,
        le=86_400_000,
        description="longest pause within a request or an answer, in milliseconds; a quiet stream should send a "
        "comment or a ping more often",
    )
    upstream_total_timeout_ms: Whole = Field(
        0, ge=0, le=86_400_000, description="longest time for a proxied request in all, in milliseconds; 0 for no limit"
    )
    upstream_min_upload_rate: Whole = Field(
        500,
        ge=0,
        le=1_000_000,
        description="lowest rate of a proxied request's body in bytes per second, after 30 seconds of waiting; 0 for "
        "any, with pauses up to the idle time-out",
    )
    admin_token: AdminToken | None = Field(
        None, description="bearer token of the admin routes, at least 16 characters; unset, there are none"
    )
    view_token: AdminToken | None = Field(
        None, description="bearer token that may read the admin routes but change nothing"
    )
    admin_path: AdminPath = Field("/-/shield", description="path of the admin routes")

    refusal_lines: Whole = Field(
        0,
        ge=0,
        le=10_000,
        description="most lines a second in each worker's log that name a refused client, for fail2ban; 0 for none",
    )
    webhook_url: WebhookUrl | None = Field(
        None,
        description="told of changes of the mode and limits, of denials and alarms, once for the whole fleet; "
        "never shown, as it may be secret",
    )
    webhook_secret: AdminToken | None = Field(
        None, description="key of its signature (Standard Webhooks), at least 16 characters; unset, it is not signed"
    )

    def __init__(self, **values: Any) -> None:
        unreadable = dict(_unreadable(values))
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError([*problems_of(error), *unreadable.values()]) from None
        if problems := [*unreadable.values(), *self._problems(unreadable)]:
            raise SettingsError(problems)

    @classmethod
    def settings_customise_sources(cls, settings_cls: Any, init_settings: Any, *_: Any, **__: Any) -> Any:
        """Use only the values passed: variables are read in one place, ``from_environ``."""
        return (init_settings,)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The settings that ``SHIELD_*`` variables describe; an empty variable counts as unset.

        Raises:
            SettingsError: holds a line for each variable that is unknown, not in capitals, in quotes, or wrong.
        """
        environ = os.environ if environ is None else environ
        given = {
            name: value.strip()
            for name, value in environ.items()
            if name.upper().startswith(ENV_PREFIX) and name not in COMMAND_VARIABLES
        }
        known = {variable(name): name for name in cls.model_fields}
        problems = list(wrong_names(environ, known))
        quoted = {name for name, value in given.items() if name in known and _is_quoted(value)}
        problems += [problem(known[name], given[name], _QUOTED) for name in sorted(quoted)]
        source = EnvSettingsSource(cls, env_prefix=ENV_PREFIX)
        read = known.keys() - quoted
        source.env_vars = {name.lower(): value for name, value in given.items() if value and name in read}
        try:
            settings = cls(**source())
        except SettingsError as error:
            problems += error.problems
        if problems:
            raise SettingsError(problems)
        return settings

    @cached_property
    def policy(self) -> Policy:
        """All limits and where they apply."""
        return Policy(
            default={scope: self._limits(scope, name) for scope, name in LIMIT_FIELDS.items()},
            emergency={scope: self._limits(scope, name) for scope, name in EMERGENCY_LIMIT_FIELDS.items()},
            live=self.live_paths,
            polled=self.polled_paths,
            rules=self.rules if self.rules_file is None else read_rules(self.rules_file),
            exempt=self.exempt_paths,
            allow=self.allow_ips,
            deny=self.deny_ips,
        )

    @property
    def overload_in_force(self) -> Literal["on", "shadow", "off"]:
        """``overload``, but ``shadow`` instead of ``on`` in a dry run, which delays and refuses nothing."""
        return "shadow" if self.overload == "on" and self.dry_run else self.overload

    @property
    def seats_in_emergency(self) -> int:
        """``emergency_capacity``, or ``capacity`` if that is unset."""
        return self.capacity if self.emergency_capacity is None else self.emergency_capacity

    @cached_property
    def file_api_keys(self) -> Mapping[str, Identity]:
        """The identities of ``api_keys_file``, by the SHA-256 of their keys."""
        return {} if self.api_keys_file is None else read_api_keys(self.api_keys_file)

    @cached_property
    def jwt_public_key_pem(self) -> str | None:
        """The PEM of ``jwt_public_key``, read from its file if that is a path."""
        return None if self.jwt_public_key is None else read_public_key(self.jwt_public_key)

    def _limits(self, scope: Scope, field: str) -> Limits:
        return parse_limits(getattr(self, field), name=scope, burst=getattr(self, burst_field(field), None))

    def _problems(self, unreadable: Container[str]) -> Iterator[str]:
        """One line for each contradiction between settings."""
        limits = list(dict.fromkeys(self._limit_problems()))  # once each: preflights have the setting of guests
        yield from limits
        if self.rules and self.rules_file is not None:
            yield problem("rules_file", self.rules_file, "SHIELD_RULES is set too: keep one of the two")
        elif not limits and "rules_file" not in unreadable:
            rules_field = "rules" if self.rules_file is None else "rules_file"
            yield from (f"{variable(rules_field)}: {text}" for text in rule_problems(self.policy))
        yield from self._overlap_problems(unreadable)
        if self.redirect_to_recording and not limits and "rules_file" not in unreadable:
            yield from redirect_problems(self.policy, self.recording_url)
        yield from self._jwt_problems()
        if self.view_token is not None and self.view_token == self.admin_token:
            right = "the same as SHIELD_ADMIN_TOKEN, which may change things: give those who only look another one"
            yield problem("view_token", self.view_token, right)

    def _overlap_problems(self, unreadable: Container[str]) -> Iterator[str]:
        """Paths that are live by one setting and polled by another; of several rules the first that matches applies."""
        if "rules_file" in unreadable:
            return
        rules = self.rules if self.rules_file is None else read_rules(self.rules_file)
        live = [rule.path for rule in rules if rule.live]
        polled = [rule.path for rule in rules if rule.lease_s]
        pairs = [
            ("polled_paths", one, other, "live") for one in self.polled_paths for other in (*self.live_paths, *live)
        ]
        pairs += [("live_paths", one, other, "polled") for one in self.live_paths for other in polled]
        for field, one, other, kind in pairs:
            if one.overlaps(other):
                right = f"'{other.text}' is {kind}, and no path is both: on a live one each response holds a seat"
                yield problem(field, one.text, right)

    def _limit_problems(self) -> Iterator[str]:
        for scope, field in LIMIT_FIELDS.items():
            try:
                self._limits(scope, field)
            except ValueError as error:
                yield problem(burst_field(field), getattr(self, burst_field(field)), str(error))

    def _jwt_problems(self) -> Iterator[str]:
        sources = [name for name in ("jwt_secret", "jwt_public_key", "jwt_jwks_url") if getattr(self, name) is not None]
        if len(sources) > 1:
            yield f"{' and '.join(variable(name) for name in sources)} are set: keep one of them"
        if not self.jwt_algorithms:
            return
        if not sources:
            yield problem("jwt_algorithms", self.jwt_algorithms, "no key is set: set SHIELD_JWT_SECRET or another")
        hmac = {name in HMAC_ALGORITHMS for name in self.jwt_algorithms}
        if sources == ["jwt_secret"] and hmac != {True}:
            yield problem("jwt_algorithms", self.jwt_algorithms, "with SHIELD_JWT_SECRET use HS256, HS384 or HS512")
        if sources in (["jwt_public_key"], ["jwt_jwks_url"]) and True in hmac:
            right = "HS* would let anyone sign with the public key: use RS*, ES* or EdDSA"
            yield problem("jwt_algorithms", self.jwt_algorithms, right)


_READERS: dict[str, Callable[[Any], object]] = {
    "rules_file": lambda value: read_rules(Path(value)),
    "api_keys_file": lambda value: read_api_keys(Path(value)),
    "jwt_public_key": read_public_key,
}


def _unreadable(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The problems of files that settings name, by field, to be reported together with all others."""
    for field, read in _READERS.items():
        value = values.get(field)
        try:
            if isinstance(value, str | Path):
                read(value)
        except ValueError as error:
            yield field, problem(field, value, str(error))


# A shell removes quotes, but docker's --env-file keeps them: a secret would differ, and 'off' be the name of a header.
_QUOTED = "the quotes are part of the value: write it without them"


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
