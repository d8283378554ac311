"""Builds everything from Settings, here and nowhere else."""

from .doors import admin_alone, envoy_door, upstream_app
from .middleware import ShieldMiddleware
from .worker import build_desk, build_worker

__all__ = ["ShieldMiddleware", "admin_alone", "build_desk", "build_worker", "envoy_door", "upstream_app"]
