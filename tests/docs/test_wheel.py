"""The wheel contains everything that runs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

import shieldmw
from docs.documents import PACKAGE
from servers import REPOSITORY, clean_environment, missing

LIVE_EVENT = REPOSITORY / "examples" / "live_event"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(REPOSITORY),
        "--no-deps",
        "--wheel-dir",
        str(folder),
        "--quiet",
    ]
    if find_spec("hatchling"):
        command.append("--no-build-isolation")
    built = subprocess.run(command, cwd=folder, capture_output=True, check=False, text=True)
    if "hatchling" in built.stderr and "No matching distribution" in built.stderr:
        missing("hatchling")
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    with ZipFile(path) as wheel:
        yield wheel


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_all_that_runs_is_inside(wheel: ZipFile) -> None:
    """Every file of the package and of the demo's event is in the wheel: code, Lua, pages, types."""
    wanted = {f"shieldmw/{path.relative_to(PACKAGE)}" for path in _files(PACKAGE)}
    wanted |= {f"shieldmw/examples/live_event/{path.relative_to(LIVE_EVENT)}" for path in _files(LIVE_EVENT)}
    kinds = {Path(name).suffix or Path(name).name for name in wanted}
    assert {".py", ".lua", ".html", ".typed", ".json", ".txt"} <= kinds
    assert wanted - set(wheel.namelist()) == set()


def test_nothing_else_is_inside(wheel: ZipFile) -> None:
    """No tests, no docs, no caches: nothing beside the package and its metadata."""
    metadata = f"shieldmw-{shieldmw.__version__}.dist-info/"
    wanted = {f"shieldmw/{path.relative_to(PACKAGE)}" for path in _files(PACKAGE)}
    others = [name for name in wheel.namelist() if not name.startswith(("shieldmw/examples/live_event/", metadata))]
    assert sorted(set(others) - wanted) == []


def test_the_metadata_says_how_to_use_it(wheel: ZipFile) -> None:
    """The version is that of the code, the licence is there, and so is the command."""
    metadata = f"shieldmw-{shieldmw.__version__}.dist-info"
    assert "shieldmw = shieldmw.cli:main" in wheel.read(f"{metadata}/entry_points.txt").decode()
    assert "License-Expression: MIT" in wheel.read(f"{metadata}/METADATA").decode()
    assert f"{metadata}/licenses/LICENSE" in wheel.namelist()


def test_the_wheel_runs_by_itself(wheel: ZipFile, tmp_path: Path) -> None:
    """Unpacked far from the checkout, the package finds its script, its page and the demo's event."""
    wheel.extractall(tmp_path)
    script = (
        "import shieldmw, shieldmw.cli.demo as demo, shieldmw.store.scripts, shieldmw.doors.asgi.replies\n"
        "shieldmw.ShieldMiddleware(None)\n"
        "print(shieldmw.__file__); print(demo.live_event_folder())\n"
    )
    environment = {**clean_environment({}), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False, text=True)
    assert result.returncode == 0, result.stderr
    module, event = result.stdout.split()
    assert Path(module) == tmp_path / "shieldmw" / "__init__.py"
    assert Path(event) == tmp_path / "shieldmw" / "examples" / "live_event"
