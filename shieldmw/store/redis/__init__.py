"""Connections to Redis or Valkey: to one server, to a cluster, or to the master that Sentinels name."""
