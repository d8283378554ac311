"""Large bodies through ``shieldmw serve --upstream``, once each way: the speed, and the memory of the worker.

python -m benchmarks.bulk --gigabytes 10
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import click

from benchmarks.servers import HOME, own_environment
from benchmarks.store import HOST
from shieldmw.rehearsal.load.server import free_port

_PIECE: Final = bytes(262_144)
_SETTINGS: Final = {"SHIELD_REDIS_URL": "memory://", "SHIELD_IP_LIMIT": "off", "SHIELD_OVERLOAD": "off"}
_START_S: Final = 20.0
_SILENCE_S: Final = 60.0


@click.command()
@click.option("--gigabytes", default=10, show_default=True, help="Size of each body.")
def main(gigabytes: int) -> None:
    """Download and upload a body of this size."""
    length = gigabytes * 1_000_000_000
    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=_serve, args=(listener, length), daemon=True).start()
        port, upstream = free_port(HOST), f"http://{HOST}:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "shieldmw", "serve", "--upstream", upstream, "--host", HOST]
        environ = own_environment() | _SETTINGS
        with subprocess.Popen(  # noqa: S603
            [*command, "--port", str(port)], cwd=HOME, env=environ, stderr=subprocess.DEVNULL
        ) as proxy:
            try:
                _wait(port)
                for name, run in (("download", _download), ("upload", _upload)):
                    worker = _worker(proxy.pid)
                    before = _memory(worker)["VmRSS"]
                    started_s = time.monotonic()
                    run(port, length)
                    speed = length / 1e6 / (time.monotonic() - started_s)
                    after = _memory(worker)
                    click.echo(
                        f"{name}: {gigabytes} GB at {speed:.0f} MB/s; the worker's memory {before} MB before,"
                        f" {after['VmHWM']} at most, {after['VmRSS']} after"
                    )
            finally:
                proxy.terminate()


def _serve(listener: socket.socket, length: int) -> None:
    """The upstream: sends ``length`` bytes for a GET of /download, and reads all of a POST."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection, length), daemon=True).start()


def _answer(connection: socket.socket, length: int) -> None:
    with connection:
        head, body = _head(connection)
        if head.startswith(b"GET /download "):
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % length)
            _send(connection, length)
            return
        if head.startswith(b"POST"):
            _drain(connection, length - len(body))
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")


def _download(port: int, length: int) -> None:
    with _connected(port) as connection:
        connection.sendall(b"GET /download HTTP/1.1\r\nHost: site.example\r\n\r\n")
        _, body = _head(connection)
        _drain(connection, length - len(body))


def _upload(port: int, length: int) -> None:
    with _connected(port) as connection:
        connection.sendall(b"POST /upload HTTP/1.1\r\nHost: site.example\r\nContent-Length: %d\r\n\r\n" % length)
        _send(connection, length)
        if not _head(connection)[0].startswith(b"HTTP/1.1 200 "):
            raise click.ClickException("the upload was not answered with 200")


def _connected(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), _SILENCE_S)


def _head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head, and what came of the body with it."""
    text = b""
    while b"\r\n\r\n" not in text:
        if not (data := connection.recv(65_536)):
            raise click.ClickException(f"the connection ended within a head: {text[:200]!r}")
        text += data
    head, _, body = text.partition(b"\r\n\r\n")
    return head, body


def _send(connection: socket.socket, length: int) -> None:
    while length:
        length -= connection.send(_PIECE[:length])


def _drain(connection: socket.socket, length: int) -> None:
    buffer = bytearray(1_048_576)
    while length:
        if not (received := connection.recv_into(buffer)):
            raise click.ClickException(f"the body ended {length} bytes too early")
        length -= received


def _wait(port: int) -> None:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        try:
            with _connected(port) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n")
                _head(connection)
                return
        except OSError:
            time.sleep(0.05)
    raise click.ClickException("the proxy does not answer")


def _worker(main_pid: int) -> int:
    """The child that has used most memory: others only wait."""
    children = Path(f"/proc/{main_pid}/task/{main_pid}/children").read_text().split()
    return max(map(int, children), key=lambda pid: _memory(pid)["VmRSS"])


def _memory(pid: int) -> dict[str, int]:
    """Resident memory, now and at most, in MB."""
    text = Path("/proc", str(pid), "status").read_text()
    return {name: int(kb) // 1000 for name, kb in re.findall(r"^(VmRSS|VmHWM):\s+(\d+)", text, re.MULTILINE)}


if __name__ == "__main__":
    main()
