"""Client of the admin routes, for commands and the demo. Each error is one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import httpx

from shieldmw.core.deny import not_denied
from shieldmw.errors import ShieldError
from shieldmw.settings.problems import masked_url


class AdminError(ShieldError):
    """The admin routes did not carry out a request; the message gives the reason in one line.

    ``is_invalid``: the request itself is wrong. ``is_unanswered``: no worker answered, or none can carry it out now;
    access through the store may still work.
    """

    def __init__(self, line: str, *, is_invalid: bool = False, is_unanswered: bool = False) -> None:
        super().__init__(line)
        self.is_invalid = is_invalid
        self.is_unanswered = is_unanswered


class Overtaken(AdminError):
    """The mode, or the limits, no longer have the expected version; ``current`` is the status now, or the limits."""

    def __init__(self, current: Mapping[str, Any]) -> None:
        super().__init__("there is another version by now")
        self.current = current


class NotDenied(AdminError):
    """The network has no entry on the deny list."""


class AdminClient:
    """The admin routes at a URL, or below ``path`` at the unix socket that ``unix:…`` names."""

    def __init__(self, url: str, token: str, actor: str, *, patience_s: float, path: str = "") -> None:
        self._url = url
        self._patience_s = patience_s
        is_socket = url.startswith("unix:")
        self._base = f"http://localhost{path.rstrip('/')}" if is_socket else url
        transport = httpx.HTTPTransport(uds=url.removeprefix("unix:")) if is_socket else None
        try:
            headers = {b"authorization": f"Bearer {token}".encode("ascii"), b"shield-actor": actor.encode()}
        except UnicodeEncodeError:
            line = "SHIELD_ADMIN_TOKEN has characters that no header can carry"
            raise AdminError(line, is_invalid=True) from None
        self._client = httpx.Client(headers=headers, timeout=patience_s, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def place(self) -> str:
        """The URL that is asked."""
        return self._url

    def status(self) -> dict[str, Any]:
        """The status of the fleet.

        Raises:
            AdminError: there was another answer or none. So do all methods here.
        """
        return self._ask("GET", "/status")

    def set_mode(self, body: Mapping[str, object], if_version: int | None = None) -> dict[str, Any]:
        """Change the mode; returns the new status of the fleet."""
        headers = {} if if_version is None else {"if-match": f'"{if_version}"'}
        return self._ask("PUT", "/mode", json=body, headers=headers)

    def top(self, count: int) -> dict[str, Any]:
        """The busiest clients, networks, paths and user agents, ``count`` of each."""
        return self._ask("GET", "/top", has="user_agents", params={"count": count})

    def deny_list(self) -> list[dict[str, Any]]:
        """Every network that is denied now."""
        return list(self._ask("GET", "/deny", has="entries")["entries"])

    def denied(self, network: str) -> dict[str, Any] | None:
        """The entry of exactly this network; None if there is none."""
        try:
            return self._ask("GET", f"/deny/{network}", has="cidr")
        except NotDenied:
            return None

    def deny(self, network: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Deny a network; returns its entry."""
        return self._ask("PUT", f"/deny/{network}", has="cidr", look="deny list", json=body)

    def lift(self, network: str) -> bool:
        """Lift the denial of a network; returns whether it was denied."""
        try:
            self._ask("DELETE", f"/deny/{network}", look="deny list")
        except NotDenied:
            return False
        return True

    def audit(self, count: int) -> list[dict[str, Any]]:
        """The last changes, newest first."""
        return list(self._ask("GET", "/audit", has="entries", params={"count": count})["entries"])

    def reset(self, body: Mapping[str, object]) -> list[str]:
        """Refill a client's buckets; returns the clients that it names."""
        return list(self._ask("POST", "/reset", has="clients", look="audit", json=body)["clients"])

    def limits(self) -> dict[str, Any]:
        """The limits in force."""
        return self._ask("GET", "/limits")

    def set_limits(self, body: Mapping[str, object], if_version: int | None = None) -> dict[str, Any]:
        """Change limits; returns those in force."""
        headers = {} if if_version is None else {"if-match": f'"{if_version}"'}
        return self._ask("PUT", "/limits", look="limits", json=body, headers=headers)

    def _ask(
        self, method: str, path: str, *, has: str = "version", look: str = "mode status", **request: Any
    ) -> dict[str, Any]:
        """The answer, which is the shield's own if it ``has`` this member; {} for a 204.

        ``look``: the command that tells whether a change was made.
        """
        try:
            response = self._client.request(method, self._base + path, **request)
        except httpx.ReadTimeout:
            doubt = "" if method == "GET" else f" It may be done all the same: see 'shieldmw {look}'."
            line = f"{self._url} did not answer within {self._patience_s:.0f} s.{doubt}"
            raise AdminError(line, is_unanswered=True) from None
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason:  # by the version of OpenSSL
                reason = f"no TLS there, use http:// ({reason})"
            line = f"cannot reach {self._url}: {reason}"
            raise AdminError(line, is_unanswered=True) from None
        except httpx.InvalidURL as error:
            raise AdminError(f"'{masked_url(self._url)}' is not a URL: {error}", is_invalid=True) from None
        if response.status_code == 204:
            return {}
        answer = _json(response)
        if response.status_code == 200 and has in answer:
            return answer
        raise _failure(response, answer, self._url)


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _failure(response: httpx.Response, answer: Mapping[str, Any], url: str) -> AdminError:
    """The error for an unsuccessful answer."""
    status, title, detail = response.status_code, answer.get("title", ""), answer.get("detail", "")
    if status == 422:
        return AdminError(detail, is_invalid=True)
    if status == 412 and detail:
        return Overtaken(answer.get("current") or {})
    if status == 503 and detail:  # the shield's own: neither a worker nor --direct can do it until the store is back
        return AdminError(f"{title}: {detail} Bring the store back, then repeat the command.")
    if status == 404 and detail == not_denied(str(detail).partition(" ")[0]):
        return NotDenied(detail)
    if status == 409 and detail:
        return AdminError(detail)
    if not detail or status in (404, 405):
        line = _not_ours(response, url)
    elif status == 401:
        line = f"wrong token: {url} does not know the SHIELD_ADMIN_TOKEN that is set here"
    elif status == 429:
        line = f"{title}: {detail} Try again in {response.headers.get('retry-after', 'some')} s."
    else:
        line = f"{title} ({status}): {detail}"
    return AdminError(line, is_unanswered=response.is_server_error)


def _not_ours(response: httpx.Response, url: str) -> str:
    if response.is_redirect:
        location = masked_url(response.headers.get("location", "somewhere else"))
        return f"{url} sends to {location}: use that as --url"
    hint = "are there admin routes (SHIELD_ADMIN_TOKEN set on the server), and is the path right?"
    return f"{url} is not the shield's (it answered {response.status_code}): {hint}"
