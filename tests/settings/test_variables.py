"""Every variable: its default, and the one-line message if its value is wrong."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shieldmw import Settings, SettingsError
from shieldmw.core.address import Networks
from shieldmw.core.decision import OnStoreFailure
from shieldmw.core.paths import PathPattern
from shieldmw.core.rules import Scope
from shieldmw.settings import rows
from shieldmw.settings.policy import EMERGENCY_LIMIT_FIELDS, LIMIT_FIELDS

DEFAULTS: dict[str, object] = {
    "redis_url": "memory://",
    "redis_timeout_ms": 50,
    "key_prefix": "shield",
    "secret": None,
    "on_redis_failure": OnStoreFailure.LOCAL,
    "leases": True,
    "ip_limit": "300/minute",
    "ip_burst": None,
    "token_limit": "1200/minute",
    "token_burst": None,
    "address_limit": "off",
    "address_burst": None,
    "failed_auth_limit": "10/minute",
    "rules": (),
    "rules_file": None,
    "exempt_paths": (PathPattern("/healthz"),),
    "dry_run": False,
    "refusal_lines": 0,
    "trusted_proxies": Networks(),
    "forwarded_header": "x-forwarded-for",
    "ipv4_prefix": 32,
    "ipv6_prefix": 64,
    "allow_ips": Networks(),
    "deny_ips": Networks(),
    "token_header": "authorization",
    "token_cookie": None,
    "token_query": None,
    "api_keys_file": None,
    "jwt_secret": None,
    "jwt_public_key": None,
    "jwt_jwks_url": None,
    "jwt_algorithms": (),
    "jwt_audience": None,
    "jwt_issuer": None,
    "jwt_class_claim": "shield_class",
    "jwt_subject_claim": "sub",
    "jwt_leeway": 30,
    "live_paths": (),
    "polled_paths": (),
    "ticket_in_playlists": False,
    "capacity": 0,
    "emergency_capacity": None,
    "emergency_guest_share": 0,
    "streams_per_member": 3,
    "streams_per_address": 20,
    "emergency_ip_limit": "30/minute",
    "guests_limit": "off",
    "emergency_guests_limit": "off",
    "overload": "on",
    "max_in_flight": 0,
    "queue_ms": 100,
    "hold_ms": 400,
    "recording_url": None,
    "redirect_to_recording": False,
    "sign_in_url": None,
    "cors_origins": (),
    "websocket_refusals": "http",
    "retry_after": 300,
    "upstream_host": "keep",
    "upstream_connections": 1024,
    "upstream_connect_timeout_ms": 5000,
    "upstream_head_timeout_ms": 60_000,
    "upstream_idle_timeout_ms": 300_000,
    "upstream_total_timeout_ms": 0,
    "upstream_min_upload_rate": 500,
    "admin_token": None,
    "view_token": None,
    "webhook_url": None,
    "webhook_secret": None,
    "admin_path": "/-/shield",
}


def test_the_defaults() -> None:
    """Without any variable the settings are those that the table of the interface promises."""
    settings = Settings.from_environ({})
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS


def test_the_default_policy() -> None:
    """Guests have 300 a minute, verified subjects 1200, failed credentials 10, and /healthz is exempt."""
    policy = Settings().policy
    named = {
        limit.name: (limit.amount, limit.period_s, limit.burst)
        for limit in policy.limits(Scope.IP) + policy.limits(Scope.TOKEN)
    }
    assert named == {"ip": (300, 60, 300), "token": (1200, 60, 1200)}
    assert [(limit.name, limit.amount) for limit in policy.limits(Scope.FAILED_AUTH)] == [("failed-auth", 10)]
    assert policy.limits(Scope.ADDRESS) == ()
    assert policy.rules == ()
    assert policy.exempt == (PathPattern("/healthz"),)
    assert not policy.allow
    assert not policy.deny


def test_every_scope_has_a_setting() -> None:
    """A default limit that nobody can set would never be charged."""
    assert set(LIMIT_FIELDS) == set(Scope)
    assert {*LIMIT_FIELDS.values(), *EMERGENCY_LIMIT_FIELDS.values()} <= set(Settings.model_fields)
    assert set(Settings().policy.default) == set(Scope)


def test_the_table_of_variables_is_made_of_the_settings() -> None:
    """The table that users see has a row with a meaning for every setting, and the default as it would be written."""
    table = {name: (default, meaning) for name, default, meaning in rows()}
    assert len(table) == len(DEFAULTS)
    assert all(meaning for _, meaning in table.values())
    assert table["SHIELD_IP_LIMIT"][0] == "300/minute"
    assert table["SHIELD_EXEMPT_PATHS"][0] == "/healthz"
    assert table["SHIELD_DRY_RUN"][0] == "false"
    assert table["SHIELD_ON_REDIS_FAILURE"][0] == "local"
    assert table["SHIELD_TRUSTED_PROXIES"][0] == table["SHIELD_SECRET"][0] == ""
    defaults = {name: default for name, (default, _) in table.items()}
    assert Settings.from_environ(defaults).model_dump() == Settings().model_dump(), "the defaults can be written out"


LIMIT = "write it like '300/minute'"
CIDR = "is not a CIDR: write it like 203.0.113.0/24"
STORE = "begins with one of memory://, redis://, rediss://, unix://, embedded://"
URL = "write it like https://example.org/recording"
NAME = "use 1 to 64 letters, digits, '.', '_' and '-'"
HEADER = "not the name of a header: write the name alone, such as x-forwarded-for"
TOKEN_HEADER = "not the name of a header: write the name alone, such as authorization or x-api-key"
JWKS = "not a web address: write it like https://example.org/.well-known/jwks.json"
SIGN_IN = "not a web address: write it like https://example.org/sign-in"
WHOLE = "write a whole number"

WRONG = [
    ("SHIELD_REDIS_URL", "localhost", STORE, "no-scheme"),
    ("SHIELD_REDIS_URL", "http://localhost", STORE, "another-scheme"),
    ("SHIELD_REDIS_URL", "redis:localhost", STORE, "no-slashes"),
    ("SHIELD_REDIS_URL", "redis://", "write it like redis://localhost:6379/0", "no-host"),
    ("SHIELD_REDIS_URL", "rediss://:6379", "write it like rediss://localhost:6379/0", "only-a-port"),
    ("SHIELD_REDIS_URL", "redis://h:99999", "not a number from 0 to 65535", "a-port-too-high"),
    ("SHIELD_REDIS_URL", "unix://", "write it like unix:///run/redis/redis.sock", "no-socket"),
    ("SHIELD_REDIS_TIMEOUT_MS", "0", "write 1 or more", "no-time-at-all"),
    ("SHIELD_REDIS_TIMEOUT_MS", "10001", "write 10000 or less", "longer-than-ten-seconds"),
    ("SHIELD_REDIS_TIMEOUT_MS", "50ms", WHOLE, "with-a-unit"),
    ("SHIELD_REDIS_TIMEOUT_MS", "0.5", WHOLE, "a-fraction"),
    ("SHIELD_KEY_PREFIX", "my app", "use 1 to 64 letters, digits, '.', '_', ':' and '-'", "a-space"),
    ("SHIELD_KEY_PREFIX", "{app}", "use 1 to 64 letters, digits", "a-hash-tag-that-would-move-every-key-to-one-slot"),
    ("SHIELD_KEY_PREFIX", "x" * 65, "use 1 to 64 letters, digits", "too-long"),
    ("SHIELD_SECRET", "too short", "has 9 characters: use at least 32 random ones", "too-short"),
    ("SHIELD_SECRET", "x", "has 1 character: use at least 32 random ones", "one-character"),
    ("SHIELD_SECRET", "x" * 31, "has 31 characters: use at least 32 random ones", "one-short"),
    ("SHIELD_ON_REDIS_FAILURE", "fail", "'local', 'open' or 'closed'", "no-such-choice"),
    ("SHIELD_ON_REDIS_FAILURE", "Local", "'local', 'open' or 'closed'", "in-upper-case"),
    ("SHIELD_LEASES", "maybe", "write true or false", "no-yes-or-no"),
    ("SHIELD_IP_LIMIT", "300", LIMIT, "no-period"),
    ("SHIELD_IP_LIMIT", "0/minute", "use at least 1", "zero"),
    ("SHIELD_IP_LIMIT", "2000000/second", "above 1000000/second", "above-the-highest-rate"),
    ("SHIELD_IP_BURST", "0", "write 1 or more", "zero"),
    ("SHIELD_IP_BURST", "many", WHOLE, "a-word"),
    ("SHIELD_TOKEN_LIMIT", "fast", LIMIT, "a-word"),
    ("SHIELD_TOKEN_BURST", "-1", "write 1 or more", "negative"),
    ("SHIELD_ADDRESS_LIMIT", "on", LIMIT, "the-opposite-of-off"),
    ("SHIELD_ADDRESS_BURST", "1e3", WHOLE, "an-exponent"),
    ("SHIELD_FAILED_AUTH_LIMIT", "10 a minute", LIMIT, "in-words"),
    ("SHIELD_RULES", "nope", "write a list such as [{", "no-json"),
    ("SHIELD_RULES", "{}", "write a list", "one-object"),
    (
        "SHIELD_RULES_FILE",
        "/no/such/rules.toml",
        "cannot be read: No such file or directory: name a readable file",
        "no-such-file",
    ),
    ("SHIELD_EXEMPT_PATHS", "healthz", "'healthz' does not begin with a slash: did you mean '/healthz'?", "no-slash"),
    (
        "SHIELD_EXEMPT_PATHS",
        "/healthz/",
        "'/healthz/' ends in a slash, which is left out here: did you mean '/healthz'?",
        "a-trailing-slash",
    ),
    ("SHIELD_EXEMPT_PATHS", "/x?q=1", "has a '?', which never reaches the app's path: did you mean '/x'?", "a-query"),
    ("SHIELD_LIVE_PATHS", "/x#frag", "has a '#', which never reaches the app's path: did you mean '/x'?", "a-fragment"),
    ("SHIELD_LIVE_PATHS", "/hls/{id}", "has a placeholder: use an exact path, or one that", "a-placeholder"),
    ("SHIELD_EXEMPT_PATHS", "/healthz,/a/../b", "did you mean '/b'?", "a-path-that-is-not-plain"),
    ("SHIELD_EXEMPT_PATHS", "/static/*.css", "one that ends in /*", "a-star-inside"),
    ("SHIELD_TICKET_IN_PLAYLISTS", "hls", "write true or false", "a-kind-of-playlist"),
    ("SHIELD_REFUSAL_LINES", "on", WHOLE, "a-boolean"),
    ("SHIELD_REFUSAL_LINES", "10001", "write 10000 or less", "a-full-disk"),
    ("SHIELD_DRY_RUN", "perhaps", "write true or false", "undecided"),
    ("SHIELD_TRUSTED_PROXIES", "nginx", CIDR, "a-name"),
    ("SHIELD_TRUSTED_PROXIES", "10.0.0.0/8,10.0.0.1/8", "did you mean 10.0.0.0/8?", "bits-beyond-the-prefix"),
    ("SHIELD_TRUSTED_PROXIES", "*", CIDR, "everybody"),
    ("SHIELD_FORWARDED_HEADER", "X Forwarded For", HEADER, "spaces"),
    ("SHIELD_FORWARDED_HEADER", "x-forwarded-for:", HEADER, "a-colon"),
    ("SHIELD_IPV4_PREFIX", "33", "write 32 or less", "longer-than-an-address"),
    ("SHIELD_IPV4_PREFIX", "0", "write 8 or more", "the-whole-internet-as-one-client"),
    ("SHIELD_IPV6_PREFIX", "129", "write 128 or less", "longer-than-an-address"),
    ("SHIELD_IPV6_PREFIX", "/64", WHOLE, "with-a-slash"),
    ("SHIELD_ALLOW_IPS", "office", CIDR, "a-name"),
    ("SHIELD_DENY_IPS", "203.0.113.0/99", CIDR, "a-prefix-too-long"),
    ("SHIELD_TOKEN_HEADER", "authorization: bearer", TOKEN_HEADER, "with-its-value"),
    ("SHIELD_TOKEN_HEADER", "X-Api-Key:", TOKEN_HEADER, "with-its-colon"),
    ("SHIELD_TOKEN_COOKIE", "a=b", NAME, "with-its-value"),
    ("SHIELD_TOKEN_QUERY", "?token", NAME, "with-its-mark"),
    ("SHIELD_API_KEYS_FILE", "/no/such/keys", "cannot be read: No such file or directory", "no-such-file"),
    ("SHIELD_JWT_SECRET", "hunter2", "has 7 characters: use at least 32 random ones", "too-short"),
    ("SHIELD_JWT_PUBLIC_KEY", "/no/such/key.pem", "neither a PEM text nor a file that can be read", "no-such-file"),
    ("SHIELD_JWT_JWKS_URL", "idp.example.org/jwks", JWKS, "no-scheme"),
    ("SHIELD_JWT_JWKS_URL", "file:///etc/passwd", JWKS, "another-scheme"),
    ("SHIELD_JWT_ALGORITHMS", "none", "use some of HS256, HS384, HS512, RS256", "none"),
    ("SHIELD_JWT_ALGORITHMS", "RS256,rs512", "'rs512' is not an algorithm", "lower-case"),
    ("SHIELD_JWT_LEEWAY", "-1", "write 0 or more", "less-than-none"),
    ("SHIELD_JWT_LEEWAY", "3601", "write 3600 or less", "longer-than-an-hour"),
    ("SHIELD_JWT_LEEWAY", "30s", WHOLE, "with-a-unit"),
    ("SHIELD_RECORDING_URL", "javascript:alert(1)", URL, "a-script"),
    ("SHIELD_RECORDING_URL", "/recording", URL, "a-path"),
    ("SHIELD_RECORDING_URL", "https:///recording", URL, "no-host"),
    ("SHIELD_RECORDING_URL", "https://example.org/a b", URL, "a-space"),
    ("SHIELD_REDIRECT_TO_RECORDING", "https://example.org/a.m3u8", "write true or false", "the-recording-itself"),
    ("SHIELD_SIGN_IN_URL", "https://example.org/\r\nSet-Cookie:a=b", SIGN_IN, "a-line-end-that-would-split-a-header"),
    ("SHIELD_CORS_ORIGINS", "https://example.org/", "did you mean 'https://example.org'?", "a-slash-at-the-end"),
    ("SHIELD_CORS_ORIGINS", "https://example.org/app?x", "did you mean 'https://example.org'?", "a-path"),
    ("SHIELD_CORS_ORIGINS", "example.org:8443", "did you mean 'https://example.org:8443'?", "no-scheme"),
    ("SHIELD_CORS_ORIGINS", "https://example.org:443", "did you mean 'https://example.org'?", "a-port-nobody-says"),
    ("SHIELD_CORS_ORIGINS", "https://*.example.org", "such as https://example.org", "a-star-inside"),
    ("SHIELD_CORS_ORIGINS", "https://a@example.org", "such as https://example.org", "a-user"),
    ("SHIELD_CORS_ORIGINS", "https://bücher.example", "such as https://example.org", "not-as-browsers-write-it"),
    ("SHIELD_CORS_ORIGINS", "null", "every sandboxed page", "null"),
    ("SHIELD_CORS_ORIGINS", "*,https://example.org", "write it alone", "all-and-one"),
    ("SHIELD_WEBSOCKET_REFUSALS", "1013", "'http' or 'close'", "a-code"),
    ("SHIELD_OVERLOAD", "yes", "'on', 'shadow' or 'off'", "a-boolean"),
    ("SHIELD_MAX_IN_FLIGHT", "-1", "write 0 or more", "fewer-than-none"),
    ("SHIELD_QUEUE_MS", "0", "write 1 or more", "no-wait"),
    ("SHIELD_QUEUE_MS", "10001", "write 10000 or less", "longer-than-ten-seconds"),
    ("SHIELD_HOLD_MS", "0.4", WHOLE, "in-seconds"),
    ("SHIELD_HOLD_MS", "10001", "write 10000 or less", "held-too-long"),
    ("SHIELD_RETRY_AFTER", "0", "write 1 or more", "at-once"),
    ("SHIELD_RETRY_AFTER", "86401", "write 86400 or less", "longer-than-a-day"),
    ("SHIELD_RETRY_AFTER", "5m", WHOLE, "with-a-unit"),
    ("SHIELD_UPSTREAM_HOST", "app.example", "'keep' or 'rewrite'", "a-host"),
    ("SHIELD_UPSTREAM_CONNECTIONS", "0", "write 1 or more", "no-connection"),
    ("SHIELD_UPSTREAM_CONNECT_TIMEOUT_MS", "0", "write 1 or more", "no-time"),
    ("SHIELD_UPSTREAM_HEAD_TIMEOUT_MS", "60s", WHOLE, "with-a-unit"),
    ("SHIELD_UPSTREAM_IDLE_TIMEOUT_MS", "0.5", "without a point", "in-seconds"),
    ("SHIELD_UPSTREAM_TOTAL_TIMEOUT_MS", "-1", "write 0 or more", "less-than-no-time"),
    ("SHIELD_UPSTREAM_MIN_UPLOAD_RATE", "1k", WHOLE, "with-a-unit"),
]

LISTS = [
    ("SHIELD_EXEMPT_PATHS", "/a"),
    ("SHIELD_LIVE_PATHS", "/a"),
    ("SHIELD_POLLED_PATHS", "/a"),
    ("SHIELD_TRUSTED_PROXIES", "10.0.0.1"),
    ("SHIELD_ALLOW_IPS", "10.0.0.1"),
    ("SHIELD_DENY_IPS", "10.0.0.1"),
    ("SHIELD_JWT_ALGORITHMS", "RS256"),
    ("SHIELD_CORS_ORIGINS", "https://example.org"),
]

# What any text may be: nothing is right or wrong before a token is seen.
WRONG += [
    ("SHIELD_LIVE_PATHS", "live", "did you mean '/live'?", "no-slash"),
    ("SHIELD_POLLED_PATHS", "hls", "did you mean '/hls'?", "no-slash"),
    ("SHIELD_CAPACITY", "-1", "write 0 or more", "fewer-than-none"),
    ("SHIELD_CAPACITY", "8M", WHOLE, "with-a-unit"),
    ("SHIELD_CAPACITY", "50,000", "write it without separators: 50000", "separated-by-commas"),
    ("SHIELD_CAPACITY", "1 500 000", "write it without separators: 1500000", "separated-by-spaces"),
    ("SHIELD_CAPACITY", "50.000", "write a whole number, without a point", "separated-by-points"),
    ("SHIELD_EMERGENCY_CAPACITY", "50.000", "write a whole number, without a point", "likewise"),
    ("SHIELD_CAPACITY", "5,0000", WHOLE, "not-separated-by-thousands"),
    ("SHIELD_EMERGENCY_CAPACITY", "half", WHOLE, "a-word"),
    ("SHIELD_STREAMS_PER_MEMBER", "-1", "write 0 or more", "fewer-than-no-stream"),
    ("SHIELD_STREAMS_PER_ADDRESS", "many", WHOLE, "streams-as-a-word"),
    ("SHIELD_EMERGENCY_GUEST_SHARE", "1.5", "write 1 or less", "more-than-all"),
    ("SHIELD_EMERGENCY_GUEST_SHARE", "20%", "write a share from 0 to 1, such as 0.1", "per-cent"),
    ("SHIELD_EMERGENCY_IP_LIMIT", "30/minit", "not a limit", "misspelt"),
    ("SHIELD_GUESTS_LIMIT", "many", LIMIT, "guests-without-a-rate"),
    ("SHIELD_EMERGENCY_GUESTS_LIMIT", "2000", LIMIT, "guests-without-a-period"),
    ("SHIELD_WEBHOOK_URL", "hooks.example.org/T0P", "write it like https://hooks.example.org/...", "no-scheme"),
    ("SHIELD_WEBHOOK_SECRET", "short", "use at least 16 random ones", "too-short"),
    ("SHIELD_ADMIN_TOKEN", "short", "use at least 16 random ones", "too-short"),
    ("SHIELD_ADMIN_TOKEN", "\u201can-admin-token-of-some-length\u201d", "use visible ASCII only", "typographic-quotes"),
    ("SHIELD_VIEW_TOKEN", "a view token\tof some length", "use visible ASCII only", "a-tab-in-a-token"),
    ("SHIELD_VIEW_TOKEN", "short", "use at least 16 random ones", "too-short-to-look"),
    (
        "SHIELD_EMERGENCY_IP_LIMIT",
        "100/fortnight",
        "units are second, minute, hour, day, month and year",
        "no-such-unit",
    ),
    *((name, f"{entry};{entry}", "';' separates nothing here: write a comma", "semicolons") for name, entry in LISTS),
    *((name, f'["{entry}"]', "not read as JSON: write the entries without brackets", "json") for name, entry in LISTS),
    ("SHIELD_ADMIN_PATH", "/", "cannot be the admin path", "the-root"),
    ("SHIELD_ADMIN_PATH", "/admin/*", "cannot be the admin path", "a-prefix"),
]

FREE_TEXT = {"SHIELD_JWT_AUDIENCE", "SHIELD_JWT_ISSUER", "SHIELD_JWT_CLASS_CLAIM", "SHIELD_JWT_SUBJECT_CLAIM"}

MASKED = {
    *("SHIELD_SECRET", "SHIELD_JWT_SECRET", "SHIELD_ADMIN_TOKEN", "SHIELD_VIEW_TOKEN"),
    *("SHIELD_WEBHOOK_URL", "SHIELD_WEBHOOK_SECRET"),
}


@pytest.mark.parametrize(
    ("variable", "value", "right"),
    [pytest.param(variable, value, right, id=f"{variable}-{why}") for variable, value, right, why in WRONG],
)
def test_a_wrong_value_is_told_in_one_line(variable: str, value: str, right: str) -> None:
    """The one message names the variable, shows its value and says what would be right."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({variable: value})
    (line,) = caught.value.problems
    shown = "********" if variable in MASKED else repr(value)
    assert line.startswith(f"{variable}={shown}: ")
    assert right in line
    assert len(line.splitlines()) == 1
    assert str(caught.value) == line


@pytest.mark.parametrize("url", ["redis://:p#ss@host", "redis://user:12/ss@host"])
def test_a_password_that_ends_the_host_is_told_how_to_write_it(url: str) -> None:
    """The password is not shown, only what it needs."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({"SHIELD_REDIS_URL": url})
    (line,) = caught.value.problems
    assert "in a password write %-escapes, such as %23 for #" in line
    assert "ss@" not in line


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize("variable", [variable for variable, _, _ in rows()])
def test_a_value_in_quotes(variable: str, quote: str) -> None:
    """Whatever kept the quotes of an env file, they are not taken for a part of a secret or of a header's name."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({variable: f"{quote}off{quote}"})
    (line,) = caught.value.problems
    assert line.startswith(f"{variable}=")
    assert line.endswith(": the quotes are part of the value: write it without them")


def test_quotes_inside_a_value() -> None:
    """Only those around the whole value are refused."""
    assert Settings.from_environ({"SHIELD_JWT_ISSUER": "'a' and 'b"}).jwt_issuer == "'a' and 'b"
    assert Settings.from_environ({"SHIELD_JWT_ISSUER": "'"}).jwt_issuer == "'"


def test_every_variable_is_in_the_table_above() -> None:
    """A setting without a check of its value is a decision, not an oversight."""
    assert {variable for variable, *_ in WRONG} | FREE_TEXT == {variable for variable, _, _ in rows()}


RIGHT: list[tuple[str, str, object, str]] = [
    ("SHIELD_REDIS_URL", "rediss://user:pw@h:6380/2", "rediss://user:pw@h:6380/2", "as-written"),
    ("SHIELD_REDIS_URL", "unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1", "a-socket"),
    ("SHIELD_REDIS_URL", "embedded://", "embedded://", "embedded"),
    ("SHIELD_REDIS_TIMEOUT_MS", "100", 100, "a-number"),
    ("SHIELD_KEY_PREFIX", "app:shield-1.x_y", "app:shield-1.x_y", "everything-that-is-allowed"),
    ("SHIELD_ON_REDIS_FAILURE", "closed", OnStoreFailure.CLOSED, "a-choice"),
    ("SHIELD_IP_LIMIT", " 10/second; 300/minute ", "10/second; 300/minute", "several-with-white-space-around"),
    ("SHIELD_IP_LIMIT", "off", "off", "off"),
    ("SHIELD_IP_BURST", "20", 20, "a-number"),
    ("SHIELD_EXEMPT_PATHS", "/healthz, /static/*", (PathPattern("/healthz"), PathPattern("/static/*")), "two"),
    ("SHIELD_DRY_RUN", "true", True, "true"),
    ("SHIELD_DRY_RUN", "0", False, "zero"),
    ("SHIELD_TRUSTED_PROXIES", "unix", Networks(unix=True), "a-unix-socket"),
    ("SHIELD_FORWARDED_HEADER", "CF-Connecting-IP", "cf-connecting-ip", "headers-have-no-case"),
    ("SHIELD_IPV6_PREFIX", "56", 56, "a-wider-prefix"),
    ("SHIELD_TOKEN_HEADER", "X-Api-Key", "x-api-key", "another-header"),
    ("SHIELD_TOKEN_HEADER", "OFF", None, "no-header"),
    ("SHIELD_TOKEN_COOKIE", "session", "session", "a-cookie"),
    ("SHIELD_JWT_AUDIENCE", "https://example.org", "https://example.org", "any-text"),
    ("SHIELD_CORS_ORIGINS", "*", ("*",), "every-origin"),
    ("SHIELD_CORS_ORIGINS", "HTTPS://Example.org", ("https://example.org",), "origins-have-no-case"),
    (
        "SHIELD_CORS_ORIGINS",
        "http://localhost:5173, http://[::1]:3000 capacitor://localhost",
        ("http://localhost:5173", "http://[::1]:3000", "capacitor://localhost"),
        "several-of-any-scheme",
    ),
    ("SHIELD_RECORDING_URL", "https://example.org/r?a=b#c", "https://example.org/r?a=b#c", "a-web-address"),
]


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [pytest.param(variable, value, read, id=f"{variable}-{why}") for variable, value, read, why in RIGHT],
)
def test_a_right_value_is_read(variable: str, value: str, read: object) -> None:
    """The value of a variable becomes the value that the core works with."""
    settings = Settings.from_environ({variable: value})
    assert getattr(settings, variable.removeprefix("SHIELD_").lower()) == read


def test_networks_are_read_from_a_variable() -> None:
    """Networks are separated by commas or spaces, and ``unix`` stands beside them."""
    settings = Settings.from_environ({"SHIELD_TRUSTED_PROXIES": "10.0.0.0/8, ::1 unix"})
    assert [str(network) for network in settings.trusted_proxies.networks] == ["10.0.0.0/8", "::1/128"]
    assert settings.trusted_proxies.unix


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        pytest.param("SHIELD_IP_LIMITS", "did you mean SHIELD_IP_LIMIT?", id="one-letter-more"),
        pytest.param("SHIELD_REDISURL", "did you mean SHIELD_REDIS_URL?", id="one-letter-less"),
        pytest.param("SHIELD_TRUSTED_PROXY", "did you mean SHIELD_TRUSTED_PROXIES?", id="another-number"),
        pytest.param("SHIELD_SECERT", "did you mean SHIELD_SECRET?", id="letters-swapped"),
        pytest.param("SHIELD_GUESTS_BURST", "before it, such as SHIELD_GUESTS_LIMIT=10/second,300/", id="no-burst"),
        pytest.param("SHIELD_EMERGENCY_IP_BURST", "as SHIELD_EMERGENCY_IP_LIMIT has units", id="no-burst-either"),
        pytest.param("SHIELD_FOO", "SHIELD_FOO: there is no such setting: see 'shieldmw env'", id="like-none"),
        pytest.param("SHIELD_QQWWXXKKJJZZVVBBNN", "see 'shieldmw env'", id="like-nothing"),
    ],
)
def test_an_unknown_variable(variable: str, nearest: str) -> None:
    """A variable that does not exist is an error with the nearest name, and its value, maybe a secret, is not shown."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({variable: "v4lue"})
    (line,) = caught.value.problems
    assert line.startswith(f"{variable}: there is no such setting")
    assert nearest in line
    assert "v4lue" not in line


@pytest.mark.parametrize("name", ["shield_ip_limit", "Shield_Ip_Limit", "SHIELD_IP_limit", "shield_admin_url"])
def test_a_name_that_is_not_in_capitals(name: str) -> None:
    """The right name in small letters would be ignored in silence, so it is an error that says how to write it."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({name: "v4lue"})
    assert caught.value.problems == (f"{name}: names are in capitals, write {name.upper()}",)


def test_a_misspelt_name_in_small_letters() -> None:
    """It is answered with the nearest setting, like one in capitals."""
    with pytest.raises(SettingsError, match=r"^shield_ip_limits: .* did you mean SHIELD_IP_LIMIT\?$"):
        Settings.from_environ({"shield_ip_limits": "1/minute"})


def test_variables_of_others_are_none_of_ours() -> None:
    """Only variables that begin with SHIELD_ are read."""
    environ = {"PATH": "/bin", "IP_LIMIT": "x", "SHIELDED": "x", "MY_SHIELD_IP_LIMIT": "x", "shielded": "x"}
    assert Settings.from_environ(environ).model_dump() == Settings().model_dump()


@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
def test_an_empty_variable_counts_as_unset(empty: str) -> None:
    """Every variable may be set to nothing, as compose files do, and its default holds."""
    environ = {variable: empty for variable, _, _ in rows()}
    assert Settings.from_environ(environ).model_dump() == Settings().model_dump()


def test_the_environment_is_read_by_from_environ_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings(...) looks at no variable, not even a wrong one; from_environ reads those of the process."""
    monkeypatch.setenv("SHIELD_IP_LIMIT", "7/minute")
    assert Settings().ip_limit == "300/minute"
    assert Settings.from_environ().ip_limit == "7/minute"
    assert Settings.from_environ({}).ip_limit == "300/minute"
    monkeypatch.setenv("SHIELD_IP_LIMIT", "nonsense")
    monkeypatch.setenv("SHIELD_NONSENSE", "1")
    assert Settings(ip_burst=5).ip_burst == 5


def test_the_name_of_the_package_is_not_the_prefix() -> None:
    """Such a variable would be without effect, unnoticed. Others that begin so may be there for another reason."""
    others = {"SHIELDMW_SERVICE_HOST": "10.0.0.1", "SHIELDMW_HOME": "/srv", "SHIELDMW": "1"}
    assert Settings.from_environ(others) == Settings()
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({"SHIELDMW_IP_LIMIT": "5/minute", "shieldmw_capacity": "5", **others})
    assert caught.value.problems == (
        "SHIELDMW_IP_LIMIT: names begin with SHIELD_, write SHIELD_IP_LIMIT",
        "shieldmw_capacity: names begin with SHIELD_, write SHIELD_CAPACITY",
    )


def test_an_unknown_name() -> None:
    """Settings(...) refuses a name that it does not know."""
    with pytest.raises(SettingsError, match="ip_limits: there is no such setting"):
        Settings(ip_limits="300/minute")


def test_values_of_the_wrong_type() -> None:
    """Values passed in Python are checked like variables, and named like them."""
    with pytest.raises(SettingsError) as caught:
        Settings(ip_limit=300, exempt_paths=5, dry_run="no idea", trusted_proxies=["10.0.0.0/8"])
    names = [line.partition("=")[0] for line in caught.value.problems]
    assert sorted(names) == ["SHIELD_DRY_RUN", "SHIELD_EXEMPT_PATHS", "SHIELD_IP_LIMIT", "SHIELD_TRUSTED_PROXIES"]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_message_is_ours(name: str) -> None:
    """Whatever is given for a setting, pydantic's own words are in no message."""
    lines: list[str] = []
    for value in ("x y", "-1", "1.5", "nan", "9" * 5000, "[1]", "", None, 1.5, b"x", object(), [1], {"a": 1}, True):
        try:
            Settings(**{name: value})
        except SettingsError as error:
            lines += error.problems
    assert lines or name.startswith("jwt_")
    assert not [line for line in lines if "Input" in line or "pydantic" in line or "parse" in line]


def test_settings_cannot_be_changed() -> None:
    """What was checked stays as it was checked."""
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.ip_limit = "nonsense"


def test_a_long_value_is_cut() -> None:
    """A message stays readable where somebody set a variable to a whole file."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({"SHIELD_IP_LIMIT": "x" * 100_000})
    assert len(str(caught.value)) < 400
    assert "…" in str(caught.value)
