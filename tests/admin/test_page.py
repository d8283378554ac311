"""The operator's page: its files need no token and hold no secret; everything else does."""

from __future__ import annotations

import gzip
import re
from importlib.resources import files

import httpx
import pytest

from admin.app import ADMIN, VIEW, Operator, run, shielded
from shieldmw.admin.auth import PAGE_LIMIT
from shieldmw.admin.page import CONTENT_SECURITY_POLICY

PATHS = {
    "/": "text/html; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    "/page.css": "text/css; charset=utf-8",
    "/uplot.js": "text/javascript; charset=utf-8",
    "/uplot.css": "text/css; charset=utf-8",
}
MOST_BYTES = 100_000
STATIC = files("shieldmw.admin") / "static"


@pytest.mark.parametrize(("path", "content_type"), PATHS.items())
def test_the_files_need_no_token(path: str, content_type: str) -> None:
    """They are what they say, and may load nothing but each other."""

    async def work() -> None:
        answer = await Operator(shielded(), None).get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == content_type
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-cache"
        assert ADMIN not in answer.text
        assert VIEW not in answer.text

    run(work)


def test_the_policy_allows_nothing_inline_and_no_frame() -> None:
    """Text of an attacker that should reach the page as markup runs nothing."""
    directives = dict(part.split(" ", 1) for part in CONTENT_SECURITY_POLICY.split("; "))
    assert directives == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_all_of_it_is_small_over_the_wire() -> None:
    """Page, script, style and charts, compressed, with their headers."""

    async def work() -> None:
        operator = Operator(shielded(), None, accept_encoding="gzip, br")
        size = 0
        for path in PATHS:
            answer = await operator.get(path)
            assert answer.headers["content-encoding"] == "gzip"
            assert answer.headers["vary"] == "accept-encoding"
            size += int(answer.headers["content-length"]) + sum(len(k) + len(v) + 4 for k, v in answer.headers.raw)
        assert size <= MOST_BYTES

    run(work)


def test_a_browser_that_has_a_file_is_not_sent_it_again() -> None:
    """The tag is that of the bytes: compressed or not, they differ, and so do their tags."""

    async def work() -> None:
        app = shielded()
        plain = await Operator(app, None, accept_encoding="identity").get("/page.js")
        packed = await Operator(app, None, accept_encoding="gzip").get("/page.js")
        assert plain.text == packed.text == (STATIC / "page.js").read_text()
        assert plain.headers["etag"] != packed.headers["etag"]
        for tag in (packed.headers["etag"], f'"other", W/{packed.headers["etag"]}'):
            again = await Operator(app, None, accept_encoding="gzip", if_none_match=tag).get("/page.js")
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == packed.headers["etag"]
        other = await Operator(app, None, accept_encoding="gzip", if_none_match=plain.headers["etag"]).get("/page.js")
        assert other.status_code == 200

    run(work)


@pytest.mark.parametrize("root_path", ["", "/api"])
def test_without_the_slash_one_is_sent_to_the_page(root_path: str) -> None:
    """By a relative redirect, so behind a prefix that only the proxy knows as well."""

    async def work() -> None:
        transport = httpx.ASGITransport(shielded(), client=("203.0.113.9", 4000), root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://shield.test") as client:
            answer = await client.get(f"{root_path}/-/shield")
            assert (answer.status_code, answer.headers["location"]) == (308, "shield/")
            page = await client.get(f"{root_path}/-/shield", follow_redirects=True)
            assert page.url.path == f"{root_path}/-/shield/"
            assert page.headers["content-type"] == PATHS["/"]

    run(work)


def test_other_sites_may_link_to_the_page_and_load_nothing() -> None:
    """A link in a chat leads to it; a foreign page neither shows it nor takes its files, and gets no data."""

    async def work() -> None:
        app = shielded()
        followed = Operator(app, None, sec_fetch_site="cross-site", sec_fetch_mode="navigate")
        assert (await followed.get("/")).status_code == 200
        taken = Operator(app, None, sec_fetch_site="cross-site", sec_fetch_mode="no-cors")
        assert (await taken.get("/page.js")).status_code == 403
        for path in ("/live", "/status", "/mode/preview?mode=normal"):
            asked = Operator(app, ADMIN, sec_fetch_site="cross-site", sec_fetch_mode="navigate")
            assert (await asked.get(path)).status_code == 403

    run(work)


@pytest.mark.parametrize("path", ["/static/page.js", "/page.html", "/uplot/LICENSE", "/page.js/", "//"])
def test_no_other_file_is_served(path: str) -> None:
    """Whoever asks without a token is told nothing."""

    async def work() -> None:
        answer = await Operator(shielded(), None).get(path)
        assert answer.status_code in (401, 429)

    run(work)


def test_opening_the_page_uses_up_no_ones_access() -> None:
    """The files have a limit of their own: beyond it the right token is still accepted."""

    async def work() -> None:
        app = shielded()
        nobody = Operator(app, None)
        for _ in range(10 * PAGE_LIMIT.burst):  # the bucket fills meanwhile
            if (await nobody.get("/page.css")).status_code == 429:
                break
        else:
            raise AssertionError("there is no limit")
        assert (await Operator(app, "wrong" * 5).get("/status")).status_code == 401
        assert (await Operator(app).get("/status")).status_code == 200

    run(work)


def test_a_method_that_changes_is_none_of_the_page() -> None:
    """POST needs the token, as everywhere, and then there is no such route."""

    async def work() -> None:
        assert (await Operator(shielded(), None).ask("POST", "/page.js")).status_code == 401
        assert (await Operator(shielded()).ask("POST", "/page.js")).status_code == 404

    run(work)


def test_the_script_makes_no_markup_of_text() -> None:
    """Text of clients and operators is only ever set as text; nothing is loaded from elsewhere."""
    script, page = (STATIC / "page.js").read_text(), (STATIC / "page.html").read_text()
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function", script
    )
    assert not re.findall(r"localStorage|sessionStorage|document\.cookie|indexedDB", script)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", script + page + (STATIC / "page.css").read_text())
    assert not re.findall(r"<script(?![^>]*\bsrc=)|\son[a-z]+=|\sstyle=|<style", page)


def test_the_charts_come_with_their_licence() -> None:
    """uPlot is vendored: an event must not depend on another site."""
    assert "MIT" in (STATIC / "uplot/LICENSE").read_text()
    assert "uPlot" in (STATIC / "uplot/uPlot.iife.min.js").read_text()[:200]
    assert len(gzip.compress((STATIC / "uplot/uPlot.iife.min.js").read_bytes())) < 30_000
