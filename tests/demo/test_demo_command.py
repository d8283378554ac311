"""`shieldmw demo`: its requirements, its output, and its exit status."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shieldmw.cli.demo import demo, live_event_folder
from shieldmw.demo import live_event

REPO = Path(live_event.__file__).resolve().parents[2]


def app_in(folder: Path) -> Path:
    (folder / "examples" / "live_event").mkdir(parents=True)
    (folder / "examples" / "live_event" / "app.py").touch()
    return folder / "examples" / "live_event"


def test_the_app_is_found_in_a_checkout_and_in_a_wheel(tmp_path: Path) -> None:
    """Beside the package in a checkout, inside it when installed; inside comes first."""
    package = tmp_path / "shieldmw"
    beside = app_in(tmp_path)
    assert live_event_folder(package) == beside
    inside = app_in(package)
    assert live_event_folder(package) == inside


def test_without_the_app_it_says_so_in_one_line(tmp_path: Path) -> None:
    """No traceback: one line that names the file that is missing."""
    with pytest.raises(click.ClickException) as caught:
        live_event_folder(tmp_path / "shieldmw")
    assert "examples/live_event/app.py" in caught.value.message
    assert "\n" not in caught.value.message


def test_without_its_packages_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base install lacks what the demo needs: it says what, and exits with 1."""
    monkeypatch.setattr(sys.modules[live_event_folder.__module__], "_NEEDED", ("click", "no_such_module"))
    result = CliRunner().invoke(demo)
    assert result.exit_code == 1
    assert "lacks no_such_module" in result.output


def test_without_the_addresses_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not all of 127.0.0.0/8 is loopback, it says so before anything is started."""
    monkeypatch.setattr(live_event, "SOURCES", ("192.0.2.1",))
    result = CliRunner().invoke(demo)
    assert result.exit_code == 1
    assert "cannot send from 192.0.2.1" in result.output


def test_a_server_that_does_not_start_shows_its_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader sees what the server said, not a traceback of the demo."""
    script = "import sys; sys.exit('SHIELD_IP_LIMIT: not a limit')"
    monkeypatch.setattr(live_event, "serve_command", lambda _host, _port: [sys.executable, "-c", script])
    result = CliRunner().invoke(demo)
    assert result.exit_code == 1
    assert "ended with status 1" in result.output
    assert "SHIELD_IP_LIMIT: not a limit" in result.output


def test_without_a_shield_the_verdict_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same app served bare: the attacker gets all it wants, and the demo says so and exits with 1."""

    def bare(host: str, port: int) -> list[str]:
        return [sys.executable, "-m", "uvicorn", "app:app", "--host", host, "--port", str(port)]

    monkeypatch.setattr(live_event, "serve_command", bare)
    result = CliRunner().invoke(demo, ["--seconds", "3"])
    assert result.exit_code == 1, result.output
    assert "BROKEN attacker: 40 of 40 clients got more than burst + rate * time" in result.output
    assert "nobody was refused" in result.output
    assert "BROKEN the switch could not be flipped: http" in result.output
    assert "is not the shield's (it answered 404)" in " ".join(result.output.split())
    assert "promises broken" in result.output


@contextmanager
def running(*options: str) -> Iterator[subprocess.Popen[str]]:
    environ = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1", "SHIELD_DRY_RUN": "true"}
    command = [sys.executable, "-m", "shieldmw", "demo", *options]
    process = subprocess.Popen(
        command,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def read_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if words in line:
            return read
    raise AssertionError(f"ended without {words!r}:\n{read}")


def test_the_shield_keeps_its_promises() -> None:
    """Both acts, shortened: exit 0, refusals are shown, and an inherited setting had no say in it."""
    with running("--seconds", "6") as process:
        output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    assert "HTTP/1.1 429" in output
    assert "Retry-After:" in output or "retry-after:" in output
    assert "HTTP/1.1 503" in output
    assert "workers obeyed" in output
    assert "60 of 60 members kept" in output
    assert "polling: 20 of 20 members were served at every poll" in output
    assert "20 polling members" in output
    assert output.count("while a botnet under every limit asked for ") == 2
    assert "Very busy" in output
    assert "BROKEN" not in output
    assert "Verdict: the members were served" in output


def test_keep_leaves_it_running_until_ctrl_c() -> None:
    """After the verdict the event is still served and can be asked; Ctrl-C ends it with the verdict's status."""
    with running("--seconds", "3", "--keep") as process:
        output = read_until(process, "Ctrl-C stops it")
        assert "curl -i http://127.0.0.1:" in output
        assert "shieldmw mode emergency" in output
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output + rest
    assert "the server stopped cleanly" in rest


def test_sigterm_in_the_middle_leaves_nothing_running() -> None:
    """Told to stop during the drill, it stops its server and exits as SIGTERM is reported."""
    with running("--seconds", "60") as process:
        output = read_until(process, "It answers at")
        port = int(output.split("http://127.0.0.1:")[1].split()[0])
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
