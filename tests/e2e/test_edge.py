"""A client on the deny list is refused by the edge, by the files of examples/edge, and let in again afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.clients import ask, client, fresh_address
from servers import HOST, REPOSITORY, HttpServer, Upstream, asgi_server, require, upstream, wait_until
from servers.http import ready
from servers.places import on_free_port, own_directory
from servers.processes import end_group, read, spawn
from shieldmw.core.deny import MOST_ENTRIES

EXAMPLE = REPOSITORY / "examples" / "edge"
ADMIN, VIEW = "an admin token, long enough", "a view token, long enough"
REFRESH_S = 0.5
# Other tests run beside it: a refresh takes as long as several processes need to start.
SLACK_S = 5.0


@contextmanager
def shield(*, uds: bool = False) -> Iterator[HttpServer]:
    """A shield with admin routes, and no app behind it."""
    settings = {"SHIELD_ADMIN_TOKEN": ADMIN, "SHIELD_VIEW_TOKEN": VIEW, "SHIELD_DENY_IPS": "192.0.2.0/24,2001:db8::/32"}
    target = "shieldmw.doors.authorize.no_app:app"
    with asgi_server("shieldmw", target, env=settings, cwd=REPOSITORY, ready_path="/", uds=uds) as server:
        yield server


def _operator(server: HttpServer, method: str, address: str, **body: object) -> dict[str, Any]:
    """A change of the deny list, and the answer."""
    uds = None if server.uds is None else str(server.uds)
    transport = httpx.HTTPTransport(uds=uds)
    base_url = server.base_url if uds is None else "http://localhost"
    with httpx.Client(transport=transport, headers={"authorization": f"Bearer {ADMIN}"}) as operator:
        answer = operator.request(method, f"{base_url}/-/shield/deny/{address}", json=body or None)
    return dict(answer.raise_for_status().json() if answer.content else {})


def _deny(server: HttpServer, address: str, for_s: int) -> float:
    """Deny an address; returns the end, in Unix seconds."""
    return float(_operator(server, "PUT", address, for_seconds=for_s, reason="a test")["until"])


# --- the script -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refresh:
    """The running script."""

    pid: int
    log_path: Path

    def log(self) -> str:
        """What it has said so far."""
        return read(self.log_path)


@contextmanager
def refreshing(
    kind: str, folder: Path, env: Mapping[str, str], *curl: str, before: tuple[str, ...] = ()
) -> Iterator[Refresh]:
    """The script in a folder. ``before``: what its command line begins with."""
    for binary in ("curl", *(["socat"] if kind == "haproxy" else [])):
        require(binary)
    (folder / "token").write_text(f"Authorization: Bearer {VIEW}\n")
    command = [*before, str(EXAMPLE / "refresh.sh"), kind, str(REFRESH_S), *curl]
    environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "DENY_HEADER": str(folder / "token"), **env}
    log = folder / "refresh.log"
    process = spawn(command, log, folder, environment)
    try:
        yield Refresh(process.pid, log)
    finally:
        end_group(process)


class Lists:
    """A server of lists, good and bad: answers with what it is given, and has seen what it was asked."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        self.length: int | None = None
        self.asked: list[dict[str, str]] = []

    def tell(self, body: str, status: int = 200, length: int | None = None) -> None:
        """Answer with this from now on; ``length``: another Content-Length than the true one."""
        self.body, self.status, self.length = body.encode(), status, length


@contextmanager
def lists() -> Iterator[tuple[Lists, str]]:
    """The server, and its URL."""
    told = Lists()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(told.status)
            self.send_header("etag", '"x"')
            self.send_header("content-length", str(told.length or len(told.body)))
            self.end_headers()
            self.wfile.write(told.body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with HTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield told, f"http://{HOST}:{server.server_port}/deny.txt"
        finally:
            server.shutdown()
            thread.join()


GOOD = "# shieldmw deny list\n# version: 1\n# networks: 1\n# until: 99999999999\n198.51.100.0/24\n# end\n"
BAD = {
    "a directive": (GOOD.replace("198.51.100.0/24", "198.51.100.0/24 1; } server { listen 81;"), 200, None),
    "a directive in a comment's place": (GOOD.replace("# version: 1", "#\tversion; include /etc/passwd"), 200, None),
    "a carriage return": (GOOD.replace("0/24", "0/24\r}"), 200, None),
    "a path": (GOOD.replace("198.51.100.0/24", "/etc/passwd"), 200, None),
    "an option": (GOOD.replace("198.51.100.0/24", "--version"), 200, None),
    "fewer than it says": (GOOD.replace("networks: 1", "networks: 2"), 200, None),
    "a last line that is cut": (GOOD.replace("/24\n# end\n", "/2"), 200, None),
    "no end": (GOOD.replace("# end\n", ""), 200, None),
    "more after its end": (GOOD.replace("# end\n", "# end\n# until: 1\n"), 200, None),
    "a prefix that is too long": (GOOD.replace("/24", "/33"), 200, None),
    "no count": (GOOD.replace("# networks: 1\n", ""), 200, None),
    "nothing": ("", 200, None),
    "a page": ("<html>It works!</html>", 200, None),
    "an error with a list": (GOOD, 503, None),
    "a redirect": (GOOD, 302, None),
    "cut short": (GOOD, 200, 10_000),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_a_whole_list_changes_nothing(what: str) -> None:
    """The file stays as it was, nginx is not reloaded, and the log says why; the next good list is applied."""
    body, status, length = BAD[what]
    with lists() as (told, url), own_directory() as folder:
        told.tell(body, status, length)
        (folder / "deny.conf").write_text("before")
        env = {"DENY_URL": url, "DENY_FILE": str(folder / "deny.conf"), "DENY_RELOAD": "touch reloaded"}
        with refreshing("nginx", folder, env, "--max-time", "1") as refresh:
            wait_until(lambda: refresh.log().count("the list stays as it is") >= 2, 20, "two refusals", refresh.log)
            assert (folder / "deny.conf").read_text() == "before"
            assert not (folder / "reloaded").exists()
            told.tell(GOOD)
            wait_until((folder / "reloaded").exists, 20, "the next list", refresh.log)
        assert "198.51.100.0/24 1;\n" in (folder / "deny.conf").read_text()


@pytest.mark.parametrize(
    ("seconds", "header", "expected"),
    [
        ("5s", "/dev/null", "'5s' is no number of seconds: write it like 5"),
        ("5", "/nonexistent", "DENY_HEADER=/nonexistent cannot be read"),
    ],
)
def test_the_script_says_what_it_lacks(seconds: str, header: str, expected: str) -> None:
    """At once, rather than asking for ever without a token."""
    command = ["sh", str(EXAMPLE / "refresh.sh"), "nginx", seconds]
    environment = {"PATH": os.environ["PATH"], "DENY_HEADER": header}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"refresh.sh: {expected}")


def test_the_token_is_in_a_header_and_a_list_that_could_not_be_applied_is_asked_for_again() -> None:
    """Until nginx has taken it, the edge does not say that it has it."""
    with lists() as (told, url), own_directory() as folder:
        told.tell(GOOD)
        env = {"DENY_URL": url, "DENY_FILE": str(folder / "deny.conf"), "DENY_RELOAD": "test -e fixed"}
        with refreshing("nginx", folder, env) as refresh:
            wait_until(lambda: len(told.asked) >= 2, 20, "two requests", refresh.log)
            assert '"x"' not in [asked.get("if-none-match") for asked in told.asked]
            (folder / "fixed").touch()
            wait_until(lambda: told.asked[-1].get("if-none-match") == '"x"', 20, "the tag", refresh.log)
        assert {asked["authorization"] for asked in told.asked} == {f"Bearer {VIEW}"}


# --- nginx and HAProxy ----------------------------------------------------------------------------


def _put(folder: Path, name: str, ports: dict[int, int]) -> Path:
    """A file of the example with other ports, and with this folder for its other places."""
    text = (EXAMPLE / name).read_text("utf-8")
    for documented, port in ports.items():
        text, count = re.subn(rf"(?<=[:\s]){documented}\b", str(port), text)
        assert count
    text = re.sub(r"listen \[::\].*;", "", text)
    text = text.replace("/run/haproxy/", f"{folder}/").replace("/etc/haproxy/", f"{folder}/")
    (folder / name).write_text(text, "utf-8")
    return folder / name


@contextmanager
def _edge(kind: str, folder: Path, app: Upstream) -> Iterator[tuple[HttpServer, dict[str, str]]]:
    """The proxy by its example in front of an app, and the variables of the script."""
    file = folder / ("shield-deny.conf" if kind == "nginx" else "shield-deny.map")
    file.touch()
    env = {"DENY_FILE": str(file)}

    def start(port: int) -> HttpServer:
        if kind == "nginx":
            conf = _put(folder, "nginx.conf", {8000: app.port, 8080: port})
            base = [require("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(conf)]
            env["DENY_RELOAD"] = " ".join([*base, "-s", "reload"])
            command = [*base, "-g", "daemon off;"]
        else:
            command = [require("haproxy"), "-f", str(_put(folder, "haproxy.cfg", {8000: app.port, 8080: port}))]
            env["DENY_SOCKET"] = str(folder / "admin.sock")
        log = folder / "edge.log"
        return ready(HttpServer(port, spawn(command, log, folder), log), kind, "/")

    server = on_free_port(start)
    try:
        yield server, env
    finally:
        end_group(server.process)


def _gets_in(edge: HttpServer, address: str) -> bool:
    """Whether a request of this address is answered by the app, and not by the edge, or not at all."""
    try:
        return ask(edge, address, "/").status == 200
    except (OSError, HTTPException):
        return False


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
def test_the_edge_refuses_and_forgets(kind: str) -> None:
    """Denied: not one request reaches the app. The end, or an operator's word: let in within a refresh."""
    denied, other = fresh_address(), fresh_address()
    with (
        shield() as server,
        upstream() as app,
        own_directory() as folder,
        _edge(kind, folder, app) as (edge, env),
        refreshing(kind, folder, {"DENY_URL": f"{server.base_url}/-/shield/deny.txt", **env}) as refresh,
    ):

        def waited(condition: Callable[[], bool], what: str, limit_s: float = REFRESH_S + SLACK_S) -> None:
            wait_until(condition, limit_s, what, lambda: refresh.log() + edge.log())

        waited(lambda: "2 networks are denied" in refresh.log(), "the first list", 20)
        assert _gets_in(edge, denied)
        with client(denied) as kept:
            assert kept.get(edge.base_url).status_code == 200
            until_s = _deny(server, denied, 8)
            # Often, since a reloaded nginx leaves some time to workers with the old list, on a busy machine more.
            waited(lambda: not any(_gets_in(edge, denied) for _ in range(100)), "the edge to refuse")
            app.forget()
            assert not any(_gets_in(edge, denied) for _ in range(20))
            if kind == "haproxy":  # nginx has closed it
                assert kept.get(edge.base_url).status_code == 403
            assert app.seen == []
        assert _gets_in(edge, other)
        assert time.time() < until_s, "too slow to say anything"
        waited(lambda: _gets_in(edge, denied), "the end", 8 + REFRESH_S + SLACK_S)
        assert until_s <= time.time() < until_s + REFRESH_S + SLACK_S
        _deny(server, denied, 600)
        waited(lambda: not _gets_in(edge, denied), "the edge to refuse again")
        _operator(server, "DELETE", denied)
        waited(lambda: _gets_in(edge, denied), "an operator's word")
        assert "stays as it is" not in refresh.log()
        server.kill()
        waited(lambda: "stays as it is" in refresh.log(), "the shield to be missed")
        assert _gets_in(edge, denied)


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
def test_the_longest_list_is_applied(kind: str) -> None:
    """As many networks as the shield keeps, and with them a client's."""
    denied, other = fresh_address(), fresh_address()
    networks = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(MOST_ENTRIES - 1)] + [f"{denied}/32"]
    body = (
        f"# networks: {MOST_ENTRIES}\n"
        + "".join(f"# until: 99999999999\n{network}\n" for network in networks)
        + "# end\n"
    )
    with (
        lists() as (told, url),
        upstream() as app,
        own_directory() as folder,
        _edge(kind, folder, app) as (edge, env),
    ):
        told.tell(body)
        with refreshing(kind, folder, {"DENY_URL": url, **env}) as refresh:
            wait_until(lambda: not _gets_in(edge, denied), 30, "the edge to refuse", lambda: refresh.log() + edge.log())
            assert _gets_in(edge, other)
            assert "stays as it is" not in refresh.log()


# --- nftables -------------------------------------------------------------------------------------


# Only root's transactions may be longer than the kernel's socket buffers.
MAPPED = () if os.geteuid() == 0 else ("--map-root-user",)


@pytest.fixture
def own_network() -> tuple[str, ...]:
    """How to run a command in a network of its own, with the example's rules and a web server."""
    rules = f"ip link set lo up && {require('nft')} -f {EXAMPLE / 'shield.nft'}"
    serve = 'python3 -m http.server 80 >/dev/null 2>&1 & exec "$@"'
    command = ("unshare", *MAPPED, "--net", "sh", "-c")
    if subprocess.run([*command, rules], capture_output=True, check=False).returncode:
        pytest.skip("no right to make a network and its rules")
    return (*command, f"{rules} && {{ {serve}; }}", "sh")


class Inside:
    """What happens in the network of a process, as a client with an address."""

    def __init__(self, pid: int, address: str) -> None:
        user = ["--user", "--preserve-credentials"] if MAPPED else []
        self._enter = ["nsenter", f"--target={pid}", *user, "--net"]
        self._address = address

    def connects(self) -> bool:
        """Whether the web server answers within a second."""
        command = ["curl", "-s", "-o", "/dev/null", "--max-time", "1", "--interface", self._address, f"http://{HOST}/"]
        return subprocess.run([*self._enter, *command], check=False).returncode == 0

    def rules(self) -> str:
        """The rules, with what is in the sets."""
        command = [*self._enter, require("nft"), "list", "ruleset"]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def test_the_rules_are_valid() -> None:
    """`nft -c` accepts them, where it may."""
    command = [require("nft"), "-c", "-f", str(EXAMPLE / "shield.nft")]
    checked = subprocess.run(command, capture_output=True, check=False, text=True)
    if "Operation not permitted" in checked.stderr:
        pytest.skip("no right to read the rules of the kernel")
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_kernel_drops_the_packets_of_denied_clients_until_their_end(own_network: tuple[str, ...]) -> None:
    """Both families are in the sets; a denied client cannot connect. At its end it can, though the shield is away: the
    kernel counts its seconds."""
    with shield(uds=True) as server, own_directory() as folder:
        env = {"DENY_URL": "http://localhost/-/shield/deny.txt"}
        with refreshing("nft", folder, env, "--unix-socket", str(server.uds), before=own_network) as refresh:
            address = fresh_address()
            inside = Inside(refresh.pid, address)
            wait_until(lambda: "2 networks are denied" in refresh.log(), 20, "the first list", refresh.log)
            wait_until(inside.connects, 20, "the web server")
            assert "elements = { 192.0.2.0/24 }" in inside.rules()
            assert "elements = { 2001:db8::/32 }" in inside.rules()
            until_s = _deny(server, address, 8)
            wait_until(lambda: not inside.connects(), REFRESH_S + SLACK_S, "the packets to be dropped", refresh.log)
            assert f"{address} timeout" in inside.rules()
            assert "stays as it is" not in refresh.log()
            server.kill()
            wait_until(inside.connects, 8 + SLACK_S, "the end", inside.rules)
            assert time.time() >= until_s - 1  # the script counts whole seconds
            assert "elements = { 192.0.2.0/24 }" in inside.rules()
