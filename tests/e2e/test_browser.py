"""The browser that other tests use runs here, and reaches a server of a test."""

from pathlib import Path

from servers import asgi_server, chromium_page


def test_a_page_reaches_a_server(tmp_path: Path) -> None:
    """A page on one server can ask that server, in JavaScript."""
    with asgi_server("uvicorn", "apps:app", env={}, cwd=tmp_path) as server, chromium_page() as page:
        page.goto(f"{server.base_url}/healthz")
        assert page.evaluate("async () => (await fetch('/healthz')).status") == 200
