"""Envoy's door: ext_authz and the rate limit service over gRPC."""
