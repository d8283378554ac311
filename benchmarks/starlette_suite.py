"""Starlette's own tests over sockets, against uvicorn and against ``shieldmw serve --upstream`` in front of it: which
pass without the proxy and fail behind it?

python -m benchmarks.starlette_suite
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import click

from benchmarks.progress import say
from benchmarks.servers import HOME, own_environment
from benchmarks.store import HOST
from shieldmw.rehearsal.load.server import free_port, serving

_VERSION: Final = version("starlette")
_PINNED: Final = ("uvicorn", "h11", "wsproto", "websockets", "pytest", "pytest-timeout")
_PACKAGES: Final = (
    f"starlette[full]=={_VERSION}",
    *(f"{name}=={version(name)}" for name in _PINNED),
    *("trio", "typing_extensions", "opentelemetry-sdk"),
)
_SETTINGS: Final = {"SHIELD_REDIS_URL": "memory://", "SHIELD_IP_LIMIT": "off", "SHIELD_OVERLOAD": "off"}
_READY_S: Final = 30.0
# Without the tests on trio: uvicorn runs on asyncio.
_PYTEST: Final = ("-q", "-p", "starlette_sockets", "-p", "no:cacheprovider", "--timeout=30", "-k", "not trio")


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="for Starlette and its venv; kept, and used again")
def main(folder: Path | None) -> None:
    """Run Starlette's tests twice, and print what only fails behind the proxy; the status is 1 if something does."""
    with tempfile.TemporaryDirectory(prefix="starlette-") as temporary:
        place = (folder or Path(temporary)).resolve()
        place.mkdir(exist_ok=True)
        python, suite = _prepared(place)
        alone = asyncio.run(_run(python, suite, through_proxy=False))
        behind = asyncio.run(_run(python, suite, through_proxy=True))
    for name, results in (("uvicorn", alone), ("uvicorn behind the proxy", behind)):
        click.echo(f"{name}: of {len(results)} tests {sum(results.values())} pass")
    worse = sorted(name for name, passes in alone.items() if passes and not behind.get(name))
    click.echo("\n".join([f"only behind the proxy {len(worse)} fail", *worse]))
    sys.exit(bool(worse))


def _prepared(folder: Path) -> tuple[Path, Path]:
    """The Python of a venv with what the tests need, and the folder of Starlette's source."""
    python, suite = folder / "venv" / "bin" / "python", folder / f"starlette-{_VERSION}"
    if not suite.exists():
        say(f"installing Starlette {_VERSION} and its tests in {folder} (about a minute)")
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        source = ["--no-deps", "--no-binary", "starlette", "--dest", str(folder), f"starlette=={_VERSION}"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder / "venv")],
            [*pip, "install", *_PACKAGES],
            [*pip, "download", *source],
        ):
            if subprocess.run(command, check=False).returncode != 0:  # noqa: S603
                raise click.ClickException(f"failed: {' '.join(command)}")
        with tarfile.open(folder / f"starlette-{_VERSION}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return python, suite


async def _run(python: Path, suite: Path, *, through_proxy: bool) -> Mapping[str, bool]:
    """Whether each test passes; skipped ones are left out."""
    stage, port = free_port(HOST), free_port(HOST)
    report = suite.parent / "results.xml"
    async with AsyncExitStack() as stack:
        if through_proxy:
            command = [sys.executable, "-m", "shieldmw", "serve", "--upstream", f"http://{HOST}:{stage}"]
            proxy = serving([*command, "--host", HOST, "--port", str(port)], HOME, own_environment() | _SETTINGS)
            await stack.enter_async_context(proxy)
            await _listens(port)
        # Not the folder above: Starlette has one of the name "benchmarks", too.
        environ = own_environment() | {"PYTHONPATH": str(Path(__file__).parent)}
        ports = {"BENCH_STAGE_PORT": str(stage), "BENCH_ASK_PORT": str(port if through_proxy else stage)}
        say(f"{suite.name}: its tests {'behind the proxy' if through_proxy else 'without the proxy'}")
        tests = await asyncio.create_subprocess_exec(
            *(str(python), "-m", "pytest", *_PYTEST, f"--junitxml={report}", "tests"),
            cwd=suite,
            env=environ | ports,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await tests.communicate()
    if tests.returncode not in (0, 1):
        raise click.ClickException(f"pytest ended with {tests.returncode}:\n{output.decode()[-3000:]}")
    return {
        f"{case.get('classname')}::{case.get('name')}": case.find("failure") is None and case.find("error") is None
        for case in ElementTree.parse(report).iter("testcase")  # noqa: S314
        if case.find("skipped") is None
    }


async def _listens(port: int) -> None:
    """Return once the proxy listens. Its upstream does not, yet."""
    async with asyncio.timeout(_READY_S):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, port)
                writer.close()
                return
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    main()
