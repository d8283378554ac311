"""``shieldmw check``: checks that the settings are valid and the store answers, and warns of unsafe settings."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import unquote, urlsplit

import click

from shieldmw.core.address import CLOUDFRONT_HEADER
from shieldmw.core.api_keys import MOST_MEANT
from shieldmw.core.limits import Limit
from shieldmw.core.mode import Mode
from shieldmw.core.paths import PathPattern
from shieldmw.core.rules import Scope, all_limits
from shieldmw.core.text import counted
from shieldmw.errors import NotPermitted, SettingsError, StoreError
from shieldmw.settings import Settings
from shieldmw.settings.policy import EMERGENCY_LIMIT_FIELDS, LIMIT_FIELDS
from shieldmw.settings.problems import masked_url, variable
from shieldmw.settings.store_url import CLUSTERS, SENTINELS, parse_servers, scheme_of
from shieldmw.store.fleet import RedisStore
from shieldmw.store.opener import store_opener
from shieldmw.store.redis.embedded import EmbeddedServer
from shieldmw.store.rights import missing_rights
from shieldmw.wiring import build_worker

from .listening import is_loopback
from .load import exit_with, failure_line, settings_or_exit
from .numbers import Whole
from .rule_warnings import rule_warnings

# INFO of each writable server, by address.
Servers = Mapping[str, Mapping[str, str]]

# Represents a server whose user may not run INFO.
_UNKNOWN: Servers = {"": {}}

# Relative loss of rate above which there is a warning. A unit's time is rounded up to a whole microsecond, so very fast
# limits admit less than they state.
ROUNDING_WORTH_SAYING = 0.01

# A single guest should not be able to take more than this part of a limit that all guests share.
MOST_FOR_ONE = 0.5


@click.command()
@click.option("--workers", default=1, show_default=True, type=Whole(1), help="How many processes will serve.")
def check(workers: int) -> None:
    """Check the settings and the store; warn of what is unsafe.

    Exit status: 0 all right (warnings do not count), 1 the store does not answer or lacks a right, 2 a wrong setting.
    """
    settings = settings_or_exit()
    servers: Servers = {}
    missing: Sequence[str] = ()
    failure = None
    try:
        servers, missing = asyncio.run(_ask_store(settings))
    except SettingsError as error:
        exit_with(error)
    except StoreError as error:
        failure = failure_line(settings.redis_url, error)
    keys = asyncio.run(_jwks_warnings(settings))
    of_store = store_warnings(settings, servers) if failure is None else ()  # nothing is known of one out of reach
    for warning in (*setting_warnings(settings, workers), *keys, *of_store):
        click.echo(f"warning: {warning}")
    if failure is not None:
        click.echo(f"error: the store {masked_url(settings.redis_url)} {failure}", err=True)
        sys.exit(1)
    user = _user_of(settings.redis_url)
    for line in missing:
        click.echo(f"error: the ACL user '{user}' of the store {line}", err=True)
    if missing:
        sys.exit(1)
    reached = ", ".join(_reached(settings, servers))
    click.echo(f"ok: settings are valid, store {masked_url(settings.redis_url)}" + (f" ({reached})" if reached else ""))


def _reached(settings: Settings, servers: Servers) -> Iterator[str]:
    """The versions of the servers that answered, and their number or place."""
    versions = {info.get("valkey_version") or info.get("redis_version") or "" for info in servers.values()}
    yield from sorted(versions - {""})
    scheme = scheme_of(settings.redis_url)
    if scheme in CLUSTERS:
        yield counted(len(servers), "master")
    elif scheme in SENTINELS:
        yield f"master {', '.join(servers)}"


async def _ask_store(settings: Settings) -> tuple[Servers, Sequence[str]]:
    """INFO of the servers, and the rights that are missing; both empty for ``memory://``.

    Also builds the gate once, so that its errors show.
    """
    if scheme_of(settings.redis_url) == "embedded":
        with EmbeddedServer() as server:
            return await _ask_store(settings.model_copy(update={"redis_url": server.url}))
    store = store_opener(settings)()
    try:
        build_worker(settings, store)
        if not isinstance(store, RedisStore):
            return {}, ()
        missing = await missing_rights(store)
        try:
            if (count := await store.api_key_count()) > MOST_MEANT:
                click.echo(f"warning: {count} API keys are issued, each worker holds them all: meant for {MOST_MEANT}")
            return await store.server_info(), missing
        except NotPermitted:
            return _UNKNOWN, missing
    finally:
        await store.aclose()


async def _jwks_warnings(settings: Settings) -> list[str]:
    """A warning with the reason, if a JWKS is set and cannot be fetched."""
    if settings.jwt_jwks_url is None:
        return []
    from shieldmw.gate.auth.jwks import JwksKeys

    keys = JwksKeys(settings.jwt_jwks_url, settings.jwt_algorithms)
    try:
        await keys.refresh()
    except ValueError as error:
        url = masked_url(settings.jwt_jwks_url)
        return [f"no keys at SHIELD_JWT_JWKS_URL={url}, so every member would be a guest: {error}"]
    return []


def _user_of(url: str) -> str:
    """The user of the servers that hold the data."""
    named = parse_servers(url).user if scheme_of(url) in (*CLUSTERS, *SENTINELS) else urlsplit(url).username
    return unquote(named or "default")


def setting_warnings(settings: Settings, workers: int) -> Iterator[str]:
    """Warnings about the settings alone."""
    if scheme_of(settings.redis_url) == "memory" and workers > 1:
        yield f"SHIELD_REDIS_URL=memory:// with {workers} workers: each has its own buckets, {workers} times the limits"
    yield from _proxy_warnings(settings)
    if settings.jwt_audience is None and (settings.jwt_secret or settings.jwt_public_key or settings.jwt_jwks_url):
        yield "SHIELD_JWT_AUDIENCE is unset: a token that the issuer made for another service is a member here too"
    url = settings.jwt_jwks_url
    if url is not None and url.startswith("http://") and not is_loopback(urlsplit(url).hostname):
        yield f"SHIELD_JWT_JWKS_URL={masked_url(url)}: keys fetched without TLS can be replaced on the way, use https://"
    hook = "" if settings.webhook_url is None else settings.webhook_url.get_secret_value()
    if hook.startswith("http://") and not is_loopback(urlsplit(hook).hostname):
        yield "SHIELD_WEBHOOK_URL begins with http://: it can be read on the way, and so used by others, use https://"
    if settings.webhook_secret is not None and not hook:
        yield "SHIELD_WEBHOOK_SECRET is set without SHIELD_WEBHOOK_URL: nothing is sent"
    if not (settings.jwt_secret or settings.jwt_public_key or settings.jwt_jwks_url):
        for name in ("jwt_audience", "jwt_issuer"):
            if getattr(settings, name) is not None:
                yield f"{variable(name)} is set but no key is: no token is accepted, set SHIELD_JWT_SECRET or another"
    has_seats = settings.policy.has_seats
    if (settings.admin_token or settings.capacity) and not has_seats:
        yield "SHIELD_LIVE_PATHS is unset: no response holds a seat, so an emergency ends no stream"
    if settings.view_token is not None and settings.admin_token is None:
        yield "SHIELD_VIEW_TOKEN is set but SHIELD_ADMIN_TOKEN is not: there are no admin routes to look at"
    if settings.cors_origins == ("*",):
        yield "SHIELD_CORS_ORIGINS=*: a page that sends cookies cannot read refusals, name the origins of such pages"
    if (total_ms := settings.upstream_total_timeout_ms) and settings.policy.has_live_paths:
        yield f"SHIELD_UPSTREAM_TOTAL_TIMEOUT_MS={total_ms} ends live streams too, after that time: leave it at 0"
    yield from rule_warnings(settings.policy.rules)
    yield from _limit_warnings(settings)
    yield from _stream_warnings(settings)


def _proxy_warnings(settings: Settings) -> Iterator[str]:
    for network in settings.trusted_proxies.networks:
        if network.prefixlen == 0:
            header = settings.forwarded_header
            yield f"SHIELD_TRUSTED_PROXIES={network}: everyone may write {header}, so anyone can be any client"
    if "forwarded_header" in settings.model_fields_set and not settings.trusted_proxies:
        yield f"SHIELD_FORWARDED_HEADER={settings.forwarded_header} is not read: SHIELD_TRUSTED_PROXIES is empty"
    yield from _header_warnings(settings)
    if settings.trusted_proxies:
        yield (
            "behind another reader of proxy headers the peer is forged already: "
            "start uvicorn with --no-proxy-headers (hypercorn and granian read none by themselves)"
        )


def _header_warnings(settings: Settings) -> Iterator[str]:
    """Warnings about the header that trusted proxies write."""
    header, trusted = settings.forwarded_header, settings.trusted_proxies
    if trusted and header not in ("x-forwarded-for", "forwarded"):
        form = "address:port, as CloudFront writes it" if header == CLOUDFRONT_HEADER else "one address"
        yield f"SHIELD_FORWARDED_HEADER={header} is read as {form}: the proxy must replace what a client sends there"
    for allowed in settings.allow_ips.networks:
        if any(allowed.version == proxy.version and allowed.overlaps(proxy) for proxy in trusted.networks):
            yield (
                f"SHIELD_ALLOW_IPS={allowed} holds a trusted proxy: requests whose {header} names no client "
                "are limited all the same"
            )


def _limit_warnings(settings: Settings) -> Iterator[str]:
    policy = settings.policy
    for limit in all_limits(policy):
        written = limit.amount / limit.period_s
        if limit.rate_per_s < written * (1 - ROUNDING_WORTH_SAYING):
            yield (
                f"limit '{limit.name}' admits {limit.rate_per_s:.0f} a second rather than {written:.0f}: "
                f"one unit takes a whole number of microseconds"
            )
    if settings.dry_run:
        yield "SHIELD_DRY_RUN=true: nothing is refused"
    elif settings.overload != "on":
        yield f"SHIELD_OVERLOAD={settings.overload}: clients who each keep to their limits can drown the app together"
    yield from _emergency_warnings(settings)
    yield from _one_address_warnings(settings)
    of_one = policy.limits(Scope.IP) + policy.limits(Scope.ADDRESS)
    if not (of_one or policy.limits(Scope.GUESTS) or any(rule.limits for rule in policy.rules)):
        yield "guests have no limit at all: set SHIELD_IP_LIMIT, or nothing stops a flood"
    elif of_one and all(limit.rate_per_s > _MORE_THAN_ONE_CLIENT_SENDS for limit in of_one):
        yield "the limits of guests are above 10,000 a second for one address: they will hardly ever refuse anything"
    if any(rule.cost == 0 and not rule.methods and _is_everywhere(rule.path) for rule in policy.rules):
        yield "SHIELD_RULES has a rule of cost 0 for every path: nothing is ever refused"
    if any(_is_everywhere(pattern) for pattern in policy.exempt):
        yield "SHIELD_EXEMPT_PATHS exempts every path: nothing is ever refused"
    if any(network.prefixlen == 0 for network in policy.allow.networks):
        yield "SHIELD_ALLOW_IPS allows every address: nothing is ever refused"


def _stream_warnings(settings: Settings) -> Iterator[str]:
    has_seats = settings.capacity or settings.seats_in_emergency
    for name in ("streams_per_member", "streams_per_address"):
        if has_seats and getattr(settings, name) == 0:
            who = "member" if name == "streams_per_member" else "address"
            yield f"{variable(name)}=0: one {who} can take every seat"


def _emergency_warnings(settings: Settings) -> Iterator[str]:
    """Warnings if an emergency would admit more than normal mode."""
    for scope, name in EMERGENCY_LIMIT_FIELDS.items():
        if looser := _looser_in_emergency(settings, scope):
            yield f"{variable(name)}={getattr(settings, name)} {looser}"
    seats = settings.seats_in_emergency
    if settings.capacity and (not seats or seats > settings.capacity):
        yield (
            f"SHIELD_EMERGENCY_CAPACITY={seats or '0 (no limit)'} is more than SHIELD_CAPACITY={settings.capacity}: "
            f"in an emergency there are more seats than usual"
        )


def _one_address_warnings(settings: Settings) -> Iterator[str]:
    """Warnings if a single address may use up most of a limit that all guests share."""
    policy = settings.policy
    for mode, fields in ((Mode.NORMAL, LIMIT_FIELDS), (Mode.EMERGENCY, EMERGENCY_LIMIT_FIELDS)):
        guests = policy.limits(Scope.GUESTS, mode)
        if not guests or (mode is Mode.EMERGENCY and Scope.GUESTS not in policy.emergency):
            continue
        ip_field, guests_field = fields[Scope.IP], fields[Scope.GUESTS]
        limit, of_all = (f"{variable(name)}={getattr(settings, name)}" for name in (ip_field, guests_field))
        of_one = policy.limits(Scope.IP, mode) + policy.limits(Scope.ADDRESS, mode)
        if not of_one:
            yield f"{limit} lets one address take all that guests have together ({of_all}): set a limit for one, too"
            continue
        at_once, of_all_at_once = (min(each.burst for each in limits) for limits in (of_one, guests))
        if _rate_per_s(of_one) > MOST_FOR_ONE * _rate_per_s(guests):
            yield f"{limit} lets one address take most of what guests have together ({of_all}): set a lower one"
        elif at_once > MOST_FOR_ONE * of_all_at_once:
            tighter = f"{max(1, of_all_at_once // 10)}/second,{getattr(settings, ip_field)}"
            yield (
                f"{limit} lets one address take {min(at_once, of_all_at_once)} of the {of_all_at_once} requests that "
                f"guests may send at once together ({of_all}): {tighter} would not"
            )


def _looser_in_emergency(settings: Settings, scope: Scope) -> str | None:
    """How an emergency's limit is looser than the normal one, and what would be right; None if it is not."""
    normal, emergency = (settings.policy.limits(scope, mode) for mode in (Mode.NORMAL, Mode.EMERGENCY))
    if not normal:
        return None
    name = LIMIT_FIELDS[scope]
    usual = f"{variable(name)}={getattr(settings, name)}"
    if not emergency:
        return f"takes the limit off guests, who otherwise have {usual}: set a lower one"
    if _rate_per_s(emergency) > _rate_per_s(normal):
        return f"is a higher rate than {usual}: set a lower one"
    at_once, usually = (min(limit.burst for limit in limits) for limits in (emergency, normal))
    if at_once > usually:
        whose = "a guest" if scope is Scope.IP else "all guests together"
        tighter = f"{usually}/second,{getattr(settings, EMERGENCY_LIMIT_FIELDS[scope])}"
        return f"lets {whose} send {at_once} requests at once, more than the usual {usually}: {tighter} would not"
    return None


def _rate_per_s(limits: Sequence[Limit]) -> float:
    return min(limit.rate_per_s for limit in limits)


# Requests a second: far more than any single client sends.
_MORE_THAN_ONE_CLIENT_SENDS = 10_000


def _is_everywhere(pattern: PathPattern) -> bool:
    return pattern.matches("/") and pattern.matches("/any/path")


def store_warnings(settings: Settings, servers: Servers) -> Iterator[str]:
    """Warnings about the servers' own settings, and the connection to them."""
    if servers is _UNKNOWN:
        user = _user_of(settings.redis_url)
        yield f"the ACL user '{user}' may not run INFO, so version and maxmemory-policy are not known: add +info"
    for place, info in servers.items():
        policy = info.get("maxmemory_policy", "noeviction")
        if policy not in ("noeviction", "volatile-ttl"):
            store = f"the store at {place}" if place else "the store"
            yield f"{store} evicts ({policy}): a bucket that is evicted is full again, use maxmemory-policy noeviction"
    scheme = scheme_of(settings.redis_url)
    hosts, has_password = _data_hosts(settings.redis_url, servers)
    far = ", ".join(dict.fromkeys(host for host in hosts if not is_loopback(host)))
    if far and not has_password:
        yield f"the store at {far} is reachable without a password: set one, in SHIELD_REDIS_URL too"
    if far and not scheme.startswith("rediss"):
        encrypted = scheme.replace("redis", "rediss")
        yield f"the way to the store at {far} is not encrypted: use {encrypted}:// where others can listen"


def _data_hosts(url: str, servers: Servers) -> tuple[Sequence[str], bool]:
    """The hosts that hold the data, as far as known, and whether the URL has a password for them."""
    if scheme_of(url) in (*CLUSTERS, *SENTINELS):
        found = [urlsplit(f"//{place}").hostname or "" for place in servers]
        named = parse_servers(url)
        return found or [address.host for address in named.addresses], bool(named.password)
    parts = urlsplit(url)
    hosts = [parts.hostname or ""] if parts.scheme in ("redis", "rediss") else []
    return hosts, bool(parts.password)
