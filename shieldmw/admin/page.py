"""The operator's page: its files, as they are answered. They hold no secrets, so they are answered without a token."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

# Nothing but the page's own files and routes: no inline script or style, no frame around it, no form that is sent.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # asks each time whether it has changed: after an upgrade the page must fit the routes
    "vary": "accept-encoding",
}

_HTML, _SCRIPT, _STYLE = "text/html; charset=utf-8", "text/javascript; charset=utf-8", "text/css; charset=utf-8"

# The page's paths below the admin path, with the file and type of each.
_FILES = {
    "/": ("page.html", _HTML),
    "/page.js": ("page.js", _SCRIPT),
    "/page.css": ("page.css", _STYLE),
    "/uplot.js": ("uplot/uPlot.iife.min.js", _SCRIPT),
    "/uplot.css": ("uplot/uPlot.min.css", _STYLE),
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file, with the entity tags of its two encodings."""

    content_type: str
    plain: bytes
    gzipped: bytes
    tag: str

    def answer(self, request: Request) -> Response:
        """The file, or 304 if the browser has it already."""
        takes_gzip = "gzip" in request.headers.get("accept-encoding", "")
        tag = f'"{self.tag}-gzip"' if takes_gzip else f'"{self.tag}"'
        headers = {**_HEADERS, "etag": tag}
        if tag in (known.strip().removeprefix("W/") for known in request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        if takes_gzip:
            headers["content-encoding"] = "gzip"
        return Response(self.gzipped if takes_gzip else self.plain, 200, headers, self.content_type)


@cache
def page_files() -> Mapping[str, PageFile]:
    """All files, by their paths below the admin path."""
    return {path: _read(name, content_type) for path, (name, content_type) in _FILES.items()}


def _read(name: str, content_type: str) -> PageFile:
    content = (files("shieldmw.admin") / "static" / name).read_bytes()
    return PageFile(content_type, content, gzip.compress(content, mtime=0), sha256(content).hexdigest()[:16])


def page_answer(scope: Scope, below: str) -> Response | None:
    """The answer to a request for the page or one of its files; None for any other.

    ``below``: the path below the admin path. Without the slash at its end the browser would look for the page's files
    in the wrong place, so it is redirected there.
    """
    if scope["method"] not in ("GET", "HEAD"):
        return None
    if not below:
        last = scope["path"].rpartition("/")[2]
        return Response(status_code=308, headers={**_HEADERS, "location": f"{last}/"})
    file = page_files().get(below)
    return None if file is None else file.answer(Request(scope))
