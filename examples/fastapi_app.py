"""The shield in an otherwise ordinary FastAPI app. Run it, and send eight requests:

SHIELD_IP_LIMIT=5/minute uvicorn fastapi_app:app --no-proxy-headers
for n in 1 2 3 4 5 6 7; do curl -s -o /dev/null -w '%{http_code} ' http://127.0.0.1:8000/; done; curl -i http://127.0.0.1:8000/
You see `200` five times, then `429`; the last answer says why and, in `Retry-After`, when to come back.
"""

from fastapi import FastAPI, Request
from pydantic import BaseModel

from shieldmw import ShieldMiddleware


class Visitor(BaseModel):
    """The client as the shield sees it."""

    name: str
    listener_class: str
    client_address: str | None
    mode: str


app = FastAPI(title="Guarded")
# The middleware added last is the outermost. Keep the shield there, so that a refusal costs the inner ones nothing.
# `--no-proxy-headers` above: otherwise uvicorn rewrites the client's address before the shield sees it, and only one of
# them may do that. Behind a proxy, name it in SHIELD_TRUSTED_PROXIES.
app.add_middleware(ShieldMiddleware)


@app.get("/")
async def hello() -> dict[str, str]:
    return {"hello": "world"}


@app.get("/me")
async def me(request: Request) -> Visitor:
    shield = request.scope["shield"]
    return Visitor(
        name=shield.identity.subject if shield.identity else "guest",
        listener_class=str(shield.listener_class),
        client_address=shield.client_address,
        mode=str(shield.mode),
    )


@app.get("/healthz")  # in SHIELD_EXEMPT_PATHS by default: never limited
async def healthz() -> str:
    return "ok"
