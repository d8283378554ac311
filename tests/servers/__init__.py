"""Real servers for tests: Redis, Valkey, ASGI servers, nginx, Envoy; and a browser. Each is a context manager.

Everything listens on loopback or on a unix socket in a directory of its own, and is ended by its own process
handle, so that test processes can run side by side. Nothing here knows what the tests assert.
"""

from .asgi import AsgiKind, asgi_server, clean_environment
from .asking import SHORT, asking
from .browser import chromium_page
from .cluster import RedisCluster, SlotMove, redis_cluster, slot_of
from .envoy import Envoy, envoy, envoy_shield
from .http import HttpServer
from .nginx import ForwardedFor, nginx
from .places import APPS, HOST, REPOSITORY, free_port, missing, require
from .redis import RedisKind, RedisServer, keys_without_ttl, redis_server
from .sentinel import RedisSentinels, Sentinel, redis_sentinels
from .tls import trust, write_certificates
from .upstream import Seen, Upstream, upstream
from .waiting import NotReady, wait_until

__all__ = [
    "APPS",
    "HOST",
    "REPOSITORY",
    "SHORT",
    "AsgiKind",
    "Envoy",
    "ForwardedFor",
    "HttpServer",
    "NotReady",
    "RedisCluster",
    "RedisKind",
    "RedisSentinels",
    "RedisServer",
    "Seen",
    "Sentinel",
    "SlotMove",
    "Upstream",
    "asgi_server",
    "asking",
    "chromium_page",
    "clean_environment",
    "envoy",
    "envoy_shield",
    "free_port",
    "keys_without_ttl",
    "missing",
    "nginx",
    "redis_cluster",
    "redis_sentinels",
    "redis_server",
    "require",
    "slot_of",
    "trust",
    "upstream",
    "wait_until",
    "write_certificates",
]
