"""Measurements of shieldmw; run from the project's folder, ``python -m benchmarks.<name> --help``."""
