"""A page of another origin in a real browser, before and in an emergency: preflights pass, refusals can be read."""

from __future__ import annotations

import json
from pathlib import Path

from e2e.clients import JWT_SECRET, bearer, client
from servers import HOST, asgi_server, chromium_page

TOKEN = "an admin token, long enough"
APP = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from shieldmw import ShieldMiddleware

def ok(request):
    return PlainTextResponse("ok")

cors = Middleware(CORSMiddleware, allow_origins=["PAGE"], allow_methods=["*"], allow_headers=["*"], max_age=0)
routes = [Route("/healthz", ok), Route("/pay", ok, methods=["PUT"])]
app = Starlette(routes=routes, middleware=[Middleware(ShieldMiddleware), cors])
"""
PUT = """async ([url, headers]) => {
  const answer = await fetch(url, { method: "PUT", headers: { "X-Any": "x", ...headers } });
  return [answer.status, Number(answer.headers.get("Retry-After")) > 0];
}"""


def test_members_of_another_origin_go_on_in_an_emergency(tmp_path: Path) -> None:
    """Their preflights come as guests, to a path that is closed to guests; these read why they are refused."""
    rules = [{"name": "pay", "path": "/pay", "emergency": "members"}]
    settings = {
        "SHIELD_RULES": json.dumps(rules),
        "SHIELD_EMERGENCY_IP_LIMIT": "1/hour",
        "SHIELD_JWT_SECRET": JWT_SECRET,
        "SHIELD_ADMIN_TOKEN": TOKEN,
    }
    with asgi_server("uvicorn", "apps:app", env={}, cwd=tmp_path) as pages, chromium_page() as page:
        (tmp_path / "app.py").write_text(APP.replace("PAGE", pages.base_url), "utf-8")
        environment = {**settings, "SHIELD_CORS_ORIGINS": pages.base_url}
        with asgi_server("uvicorn", "app:app", env=environment, cwd=tmp_path) as server:
            page.goto(f"{pages.base_url}/healthz")
            asked = [[f"{server.base_url}/pay", headers] for headers in (bearer("ada"), {})]
            before = [page.evaluate(PUT, one) for one in asked]
            with client(HOST, {"authorization": f"Bearer {TOKEN}"}) as operator:
                change = {"mode": "emergency", "for_seconds": 60, "reason": "a test"}
                operator.put(f"{server.base_url}/-/shield/mode", json=change).raise_for_status()
            after = [page.evaluate(PUT, one) for one in asked * 3]
    assert before == [[200, False]] * 2
    assert after == [[200, False], [503, True]] * 3
