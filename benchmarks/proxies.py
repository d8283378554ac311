"""``shieldmw serve --upstream`` beside other reverse proxies, one worker each, before the same upstream."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import aiohttp
import click

from benchmarks.cases import PLENTY
from benchmarks.load import Load, Seen, Wrk
from benchmarks.progress import say
from benchmarks.report import table, verdict
from benchmarks.rounds import Plan
from benchmarks.servers import HOME, App, Server, own_environment, peer_name, peers_python, running
from benchmarks.store import HOST, Store
from shieldmw.rehearsal.load.server import free_port, serving

UPSTREAM: Final = "the upstream itself"
NGINX: Final = "nginx"
SHIELD: Final = "shieldmw serve --upstream"
PEERS: Final = ("asgi_proxy_lib", "fastapi_reverse_proxy")
_LEAST_OF_NGINX: Final = 0.5
_LEAST_OF_PEER: Final = 1.7
_MOST_OF_P99: Final = 3.0
_READY_S: Final = 30.0
# One process, so that it is one worker, as each of the others.
_NGINX_CONF: Final = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {site}
}}
"""
_HELLO_SITE: Final = "server {{ listen {host}:{port}; location / {{ default_type text/plain; return 200 hello; }} }}"
_PROXY_SITE: Final = """\
upstream app {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen {host}:{port};
    location / {{
      proxy_pass http://app;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One server, measured once."""

    seen: Seen
    cpu_s: float


UPSTREAMS: Final = {"proxy": "the bare app", "proxy-constant": "an nginx that sends a constant"}
"""The upstream of each case: one that takes as long as a proxy, and one that takes next to nothing."""


async def measure(case: str, plan: Plan, store: Store) -> str:
    """Measure all by turns, each launched anew in each round, and make the table.

    Raises:
        click.ClickException: one does not answer as the upstream does.
    """
    say(f"{case}: reverse proxies before {UPSTREAMS[case]}")
    turns: dict[str, list[Turn]] = {}
    for number in range(plan.rounds):
        for name, turn in (await _round(case, plan, store, number)).items():
            turns.setdefault(name, []).append(turn)
        rates = "  ".join(f"{name} {mine[-1].seen.rate:,.0f}" for name, mine in turns.items())
        say(f"  launch {number + 1} of {plan.rounds}, answers a second: {rates}")
    return of(UPSTREAMS[case], turns)


async def _round(case: str, plan: Plan, store: Store, number: int) -> dict[str, Turn]:
    store.client.flushall()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        upstream = await stack.enter_async_context(_upstream(case, folder / "upstream"))
        servers = [upstream]
        for proxy in _proxies(upstream, store, folder):
            servers.append(await stack.enter_async_context(proxy))
        wrk, first, turns = Wrk(Load(), folder), number % len(servers), {}
        for server in servers[first:] + servers[:first]:
            await _check(server)
            await wrk.run(server.url, 1)
            before_s = server.cpu_s()
            seen = await wrk.run(server.url, plan.seconds)
            if seen.errors or seen.refused:
                raise click.ClickException(f"{server.app.name}: {seen.errors + seen.refused:,} requests failed")
            turns[server.app.name] = Turn(seen, server.cpu_s() - before_s)
        return {server.app.name: turns[server.app.name] for server in servers}


def _upstream(case: str, folder: Path) -> AbstractAsyncContextManager[Server]:
    if case == "proxy":
        return running(App(UPSTREAM, "bare"), {})
    return _nginx(UPSTREAM, folder, _HELLO_SITE)


def _proxies(upstream: Server, store: Store, folder: Path) -> list[AbstractAsyncContextManager[Server]]:
    address = upstream.url.removeprefix("http://").rstrip("/")
    settings = {"SHIELD_REDIS_URL": store.url(0), "SHIELD_IP_LIMIT": PLENTY, "SHIELD_REDIS_TIMEOUT_MS": "2000"}
    serve = [sys.executable, "-m", "shieldmw", "serve", "--upstream", f"http://{address}"]
    uvicorn = [peers_python(), "-m", "uvicorn", "--factory", "benchmarks.proxy_peers:build"]
    uvicorn += ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    return [
        _nginx(NGINX, folder / "proxy", _PROXY_SITE.replace("{upstream}", address)),
        _running(SHIELD, serve, settings),
        *(
            _running(peer_name(peer), uvicorn, {"BENCH_APP": peer, "BENCH_UPSTREAM": f"http://{address}"})
            for peer in PEERS
        ),
    ]


@asynccontextmanager
async def _nginx(name: str, folder: Path, site: str) -> AsyncIterator[Server]:
    if shutil.which("nginx") is None:
        raise click.ClickException("nginx is not on PATH: apt-get install nginx")
    port = free_port(HOST)
    config = _written(folder, site.format(host=HOST, port=port))
    command = ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(config)]
    async with _serving(name, command, port, {}) as server:
        yield server


def _written(folder: Path, site: str) -> Path:
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(_NGINX_CONF.format(folder=folder, site=site), "utf-8")
    return config


@asynccontextmanager
async def _running(name: str, command: Sequence[str], settings: Mapping[str, str]) -> AsyncIterator[Server]:
    port = free_port(HOST)
    arguments = ["--host", HOST, "--port", str(port), "--log-level", "warning"]
    async with _serving(name, [*command, *arguments], port, settings) as server:
        yield server


@asynccontextmanager
async def _serving(name: str, command: Sequence[str], port: int, settings: Mapping[str, str]) -> AsyncIterator[Server]:
    url = f"http://{HOST}:{port}/"
    async with serving(command, HOME, own_environment() | dict(settings)) as server:
        await server.ready(f"{url}healthz", _READY_S, lambda _: None)
        yield Server(App(name, name), url, server._process.pid, server.last_lines)


async def _check(server: Server) -> None:
    async with aiohttp.ClientSession() as session, session.get(server.url) as answer:
        text = await answer.text("latin-1")
        if answer.status != 200 or text != "hello":
            raise click.ClickException(f"{server.app.name} answered {answer.status}: {text[:200]}")
        if server.app.name == SHIELD and "ratelimit" not in answer.headers:
            raise click.ClickException(f"{server.app.name} sent no ratelimit: {answer.headers}")


def of(upstream: str, turns: Mapping[str, Sequence[Turn]]) -> str:
    """The table and the verdicts."""
    header = [
        f"one hot guest through a proxy to {upstream}",
        "a second",
        "of nginx (least–most)",
        "p50 ms",
        "p99 ms",
        "CPU µs",
    ]
    ratios = {name: _ratios(mine, turns[NGINX]) for name, mine in turns.items()}
    rows = [
        [
            name,
            f"{median(turn.seen.rate for turn in mine):,.0f}",
            _spread(ratios[name]),
            f"{median(turn.seen.p50_us for turn in mine) / 1000:.1f}",
            f"{_p99_us(mine) / 1000:.1f}",
            f"{median(turn.cpu_s / turn.seen.requests for turn in mine) * 1e6:.1f}",
        ]
        for name, mine in turns.items()
    ]
    best = max(map(peer_name, PEERS), key=lambda peer: median(turn.seen.rate for turn in turns[peer]))
    of_best = _ratios(turns[SHIELD], turns[best])
    of_p99 = _p99_us(turns[SHIELD]) / _p99_us(turns[UPSTREAM])
    verdicts = (
        f"Target: at least {_LEAST_OF_NGINX} of nginx; {verdict(median(ratios[SHIELD]) >= _LEAST_OF_NGINX)}."
        f" At least {_LEAST_OF_PEER} times the best peer; {_spread(of_best)} times {best}:"
        f" {verdict(median(of_best) >= _LEAST_OF_PEER)}."
        f" p99 at most {_MOST_OF_P99:.0f} times the upstream's own; {of_p99:.1f}: {verdict(of_p99 <= _MOST_OF_P99)}."
    )
    return f"{table(header, rows)}\n\n{verdicts}"


def _ratios(mine: Sequence[Turn], others: Sequence[Turn]) -> list[float]:
    return [turn.seen.rate / other.seen.rate for turn, other in zip(mine, others, strict=True)]


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def _p99_us(turns: Sequence[Turn]) -> float:
    return median(turn.seen.p99_us for turn in turns)
