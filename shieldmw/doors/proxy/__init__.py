"""The proxy door: an ASGI app that passes requests on to HTTP/1.1 upstreams, for ``shieldmw serve --upstream``."""
