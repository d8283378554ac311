"""A real Chromium with one page, driven by Playwright: for what only a browser does, such as EventSource and CORS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .places import missing, own_directory, require

if TYPE_CHECKING:
    from playwright.sync_api import Page

# The sandbox needs rights that containers lack. The rest keeps the browser from calling anybody but the test's servers.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium_page() -> Iterator[Page]:
    """An empty page of the system's Chromium, headless and with a profile of its own.

    Playwright's sync API runs an event loop of its own, so this is for plain tests, not for coroutines.
    """
    binary = require("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright")
    with own_directory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=binary, headless=True, args=ARGUMENTS
        )
        try:
            yield context.pages[0]
        finally:
            context.close()
