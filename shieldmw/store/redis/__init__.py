"""The connection to Redis or Valkey: one server, a cluster, or behind Sentinels."""
