"""How credentials are verified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shieldmw.errors import SettingsError
from shieldmw.gate.auth.api_keys import ApiKeys
from shieldmw.gate.auth.failed_auth import FailedAuth
from shieldmw.gate.auth.identity import Identifier, TokenVerifier
from shieldmw.gate.clock import Clock
from shieldmw.gate.worker import Background
from shieldmw.settings import Settings
from shieldmw.settings.problems import problem
from shieldmw.store.port import Store

if TYPE_CHECKING:
    from shieldmw.gate.auth.jwks import JwksKeys


def identifier_of(
    settings: Settings, store: Store, failed_auth: FailedAuth, clock: Clock
) -> tuple[Identifier, ApiKeys, Sequence[Background]]:
    """The identifier, its API keys, and the background tasks that refresh its keys."""
    api_keys = ApiKeys(store, settings.file_api_keys)
    tokens, jwks = _jwt(settings, clock)
    identifier = Identifier(api_keys, tokens, failed_auth, clock)
    if jwks is None:
        return identifier, api_keys, (api_keys.refresher,)
    jwks.on_change = identifier.token_keys_changed
    return identifier, api_keys, (api_keys.refresher, jwks.refresher)


def _jwt(settings: Settings, clock: Clock) -> tuple[TokenVerifier | None, JwksKeys | None]:
    """The verifier of JWTs, if there is one, and its JWKS if its keys are fetched."""
    if settings.jwt_secret is None and settings.jwt_public_key is None and settings.jwt_jwks_url is None:
        return None, None
    try:
        from shieldmw.gate.auth import jwks, jwt_tokens
    except ImportError as error:
        raise SettingsError([f"SHIELD_JWT_*: verifying JWTs needs {error.name}: pip install 'shieldmw[jwt]'"]) from None
    algorithms = settings.jwt_algorithms
    keys: jwt_tokens.KeySource
    fetched = None
    if settings.jwt_jwks_url is not None:
        keys = fetched = jwks.JwksKeys(settings.jwt_jwks_url, algorithms)
    elif settings.jwt_secret is not None:
        keys = jwt_tokens.FixedKey(jwt_tokens.secret_key(settings.jwt_secret.get_secret_value(), algorithms))
    else:
        try:
            keys = jwt_tokens.FixedKey(jwt_tokens.public_key(settings.jwt_public_key_pem or "", algorithms))
        except ValueError as error:
            raise SettingsError([problem("jwt_public_key", settings.jwt_public_key, str(error))]) from None
    verifier = jwt_tokens.JwtVerifier(
        keys,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        class_claim=settings.jwt_class_claim,
        subject_claim=settings.jwt_subject_claim,
        leeway_s=settings.jwt_leeway,
        clock=clock,
    )
    return verifier, fetched
