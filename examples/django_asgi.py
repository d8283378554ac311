"""The shield around Django, which keeps its own sign-in: a client with a cookie that Django signed is a member.

SHIELD_IP_LIMIT=5/minute SHIELD_TOKEN_LIMIT=20/minute uvicorn django_asgi:application --no-proxy-headers
curl -s -c jar -d name=ada http://127.0.0.1:8000/sign-in; curl -s -b jar http://127.0.0.1:8000/
The second command prints `Hello ada, a member`. Without the jar you are a guest, refused after five in a minute.
"""

# mypy: disable-error-code="import-untyped"
# Django has no type information of its own.

import os
from http import HTTPStatus

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.core.management.utils import get_random_secret_key
from django.core.signing import BadSignature, TimestampSigner
from django.http import HttpResponse, parse_cookie
from django.urls import path
from starlette.types import Scope

from shieldmw import Identity, ShieldMiddleware

COOKIE = "member"
COOKIE_LIFETIME_S = 3600
MAX_NAME_CHARS = 40

settings.configure(
    # A random key is fine for one process; several workers need the same one.
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY") or get_random_secret_key(),
    ALLOWED_HOSTS=["127.0.0.1", "localhost", "[::1]"],
    ROOT_URLCONF=__name__,
)
django_application = get_asgi_application()
# The salt keeps these signatures from being valid for anything else that Django signs.
signer = TimestampSigner(salt="django_asgi.member")


async def member_of_cookie(scope: Scope) -> Identity | None:
    """The subject of the signed cookie; None, a guest, if it is missing, forged or too old."""
    cookies = b"; ".join(value for name, value in scope["headers"] if name == b"cookie")
    signed = parse_cookie(cookies.decode("latin-1")).get(COOKIE)
    if signed is None:
        return None
    try:
        return Identity(signer.unsign(signed, max_age=COOKIE_LIFETIME_S))
    except BadSignature:  # SignatureExpired is a subclass
        return None


async def hello(request: ASGIRequest) -> HttpResponse:
    shield = request.scope["shield"]
    name = shield.identity.subject if shield.identity else "somebody"
    return HttpResponse(f"Hello {name}, a {shield.listener_class}\n", content_type="text/plain")


async def sign_in(request: ASGIRequest) -> HttpResponse:
    """Accepts any name. A real site checks a password here, and keeps Django's CSRF protection on."""
    name = request.POST.get("name", "").strip() if request.method == "POST" else ""
    if not 0 < len(name) <= MAX_NAME_CHARS:
        return HttpResponse("POST a name\n", status=HTTPStatus.BAD_REQUEST, content_type="text/plain")
    response = HttpResponse("Signed in\n", content_type="text/plain")
    response.set_cookie(
        COOKIE,
        signer.sign(name),
        max_age=COOKIE_LIFETIME_S,
        secure=request.is_secure(),
        httponly=True,
        samesite="Lax",
    )
    return response


urlpatterns = [path("", hello), path("sign-in", sign_in)]
application = ShieldMiddleware(django_application, authenticate=member_of_cookie)
