"""Lower bounds of dependencies: no release with a known vulnerability, none without a feature that we use."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from servers import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]

# The last release with a hole, and what it is.
HOLES = [
    ("starlette", "0.49.0", "CVE-2025-62727: Range headers in quadratic time"),
    ("starlette", "1.0.0", "CVE-2026-48710: the Host header in request.url"),
    ("starlette", "1.2.1", "PYSEC-2026-248: the path in request.url"),
    ("pydantic-settings", "2.14.1", "GHSA-4xgf-cpjx-pc3j: files out of the folder of secrets"),
    ("pyjwt", "2.10.0", "CVE-2024-53861: iss by substring"),
    ("pyjwt", "2.11.0", "CVE-2026-32597: unknown crit"),
    ("pyjwt", "2.12.1", "GHSA-xgmm-8j9v-c9wx: a JWK as HMAC secret"),
    ("pyjwt", "2.13.0", "CVE-2026-102265: RecursionError by nested headers"),
    ("pyjwt", "2.14.0", "RecursionError by nested payloads"),
    ("cryptography", "46.0.6", "CVE-2026-39892: buffers that are not contiguous"),
    ("cryptography", "49.0.0", "CVE-2026-69247"),
    ("h11", "0.15.0", "CVE-2025-43859: chunked encoding"),
    ("aiohttp", "3.14.3", "PYSEC-2026-4369: the scheme of absolute requests"),
]


def requirements() -> Iterator[Requirement]:
    """What users install, without what only developers do."""
    extras = PROJECT["optional-dependencies"]
    texts = [
        *PROJECT["dependencies"],
        *(text for name in extras if name not in ("dev", "bench") for text in extras[name]),
    ]
    for requirement in map(Requirement, texts):
        if requirement.name != PROJECT["name"]:
            yield requirement


def of(name: str) -> list[Requirement]:
    """Every line that names a package."""
    return [requirement for requirement in requirements() if requirement.name.lower() == name]


@pytest.mark.parametrize(("name", "release", "hole"), HOLES)
def test_no_release_with_a_known_hole_is_admitted(name: str, release: str, hole: str) -> None:
    """Nobody gets it by installing the shield, whatever else holds versions back."""
    assert of(name)
    assert [str(one) for one in of(name) if one.specifier.contains(release, prereleases=True)] == [], hole


def test_every_dependency_has_a_lower_bound_that_this_environment_meets() -> None:
    """What the tests run with is among what users may install."""
    for requirement in requirements():
        assert any(specifier.operator in (">=", "~=", "==") for specifier in requirement.specifier), requirement
        assert requirement.specifier.contains(version(requirement.name)), requirement


def test_a_library_whose_private_parts_are_used_has_an_upper_bound() -> None:
    """store/redis.py drives redis-py's connections itself: another major release may change them."""
    (redis,) = of("redis")
    assert not redis.specifier.contains("9.0.0")
