"""The door for proxies that ask before they forward a request: nginx, Caddy, Traefik, HAProxy, Envoy."""
