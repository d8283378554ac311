"""A real nginx in front of an HTTP server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from .http import HttpServer, ready
from .places import HOST, on_free_port, own_directory, require
from .processes import end_group, spawn

ForwardedFor = Literal["append", "replace", "pass"]


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
      proxy_http_version {http_version};
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
    upstream: str,
    *,
    forwarded_for: ForwardedFor = "append",
    extra: str = "",
    ready_path: str = "/healthz",
    http_version: str = "1.1",
) -> Iterator[HttpServer]:
    """A real nginx before `upstream`, a base URL; WebSocket and unbuffered streams pass through.

    X-Forwarded-For: `append` to what the client sent ($proxy_add_x_forwarded_for), `replace` it
    ($remote_addr), or `pass` it on unread. `extra` is added to the location, for instance
    another proxy_set_header. `http_version` is that of requests to `upstream`; nginx's own default is 1.0.
    """
    binary = require("nginx")
    with own_directory() as directory:

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
                http_version=http_version,
            )
            (directory / "nginx.conf").write_text(conf, encoding="utf-8")
            command = [binary, "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf")]
            server = HttpServer(port, spawn(command, log, directory), log)
            return ready(server, f"nginx to answer before {upstream}", ready_path)

        server = on_free_port(start)
        try:
            yield server
        finally:
            end_group(server.process)
