"""`shieldmw serve`: its messages for a target that it cannot serve. Serving itself is tested end to end."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from cli.commands import python, shieldmw
from shieldmw.cli.admin_listener import warn_of_strangers
from shieldmw.cli.listening import Address, TcpAddress, UnixAddress, overlap, url_of

TOKEN = "an-admin-token-of-some-length"

MODULES = {
    "good.py": "async def app(scope, receive, send):\n    pass\n\nclass Holder:\n    app = app\n\nnumber = 5\n",
    "webapp.py": "import web\n\nasync def app(scope, receive, send):\n    pass\n",
    "needs.py": "import no_such_package\n",
    "broken.py": "def app(:\n",
    "raises.py": "raise RuntimeError('the database is away')\n",
    "calls.py": "def make():\n    raise RuntimeError('no settings\\nat all')\n\napp = make()\n",
    "factory.py": "def make():\n    raise RuntimeError('never called')\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with apps and mistakes."""
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("good", "'good' is not of the form module:app"),
        ("good:", "'good:' is not of the form module:app"),
        (":app", "':app' is not of the form module:app"),
        ("", "'' is not of the form module:app"),
        ("nothing:app", "there is no module 'nothing' in "),
        ("nothing.at.all:app", "there is no module 'nothing.at.all' in "),
        ("good.app:app", "there is no module 'good.app' in "),
        ("good.py:app", "good.py"),
        (".good:app", ".good"),
        ("..:app", ".."),
        ("good:nothing", "module 'good' has no 'nothing'"),
        ("good:Holder.nothing", "module 'good' has no 'Holder.nothing'"),
        ("good:app:app", "module 'good' has no 'app:app'"),
        ("good:number", "'good:number' is no ASGI app"),
        ("good:Holder.", "has no 'Holder.'"),
    ],
)
def test_a_target_that_cannot_be_found_is_said_clearly(folder: Path, target: str, message: str) -> None:
    """Status 2 and a line that names what was not found; no traceback, and nothing is started."""
    ran = shieldmw("serve", target, cwd=folder, SHIELD_REDIS_URL="memory://")
    assert ran.status == 2, ran.err
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert "http://" not in ran.err


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("needs:app", "no_such_package"),
        ("webapp:app", "'web'"),
        ("broken:app", "broken.py"),
        ("raises:app", "database"),
    ],
)
def test_a_module_that_fails_is_not_said_to_be_missing(folder: Path, target: str, names: str) -> None:
    """The mistake inside the app's own module is shown, whatever its name is like."""
    ran = shieldmw("serve", target, cwd=folder, SHIELD_REDIS_URL="memory://")
    assert ran.status == 1
    assert names in ran.err
    assert "there is no module" not in ran.err


@pytest.mark.parametrize(
    ("target", "files", "line"),
    [
        ("calls:app", ["calls.py", "calls.py"], "calls:app cannot be loaded: RuntimeError: no settings"),
        ("webapp:app", ["webapp.py"], "webapp:app cannot be loaded: ModuleNotFoundError: No module named 'web'"),
    ],
)
def test_of_an_app_that_fails_only_its_own_frames_are_shown(
    folder: Path, target: str, files: list[str], line: str
) -> None:
    """The last line says what failed; the frames before it are the app's, not those that led to it."""
    ran = shieldmw("serve", target, cwd=folder, SHIELD_REDIS_URL="memory://")
    assert ran.status == 1
    assert [Path(name).name for name in re.findall(r'File "([^"]+)"', ran.err)] == files
    assert ran.err.splitlines()[-1] == f"Error: {line}"


def test_a_factory_is_not_served(folder: Path) -> None:
    """Each request would be a 500: a function without an app's parameters is refused at the start."""
    ran = shieldmw("serve", "factory:make", cwd=folder, SHIELD_REDIS_URL="memory://")
    assert ran.status == 2
    assert "'factory:make' is no ASGI app: it does not take (scope, receive, send)" in ran.err
    assert "app = create_app()" in ran.err


WRONG_OPTIONS = [
    ("--port", "0"),
    ("--port", "70000"),
    ("--workers", "0"),
    ("--workers", "x"),
    ("--backlog", "10"),
    ("--header-timeout", "0"),
    ("--header-timeout", "10s"),
    ("--http", "3"),
    ("--log-level", "loud"),
    ("--uds-permissions", "660"),
    ("--uds-permissions", "rw"),
    ("--uds-permissions", "888"),
    ("--uds-permissions", "1777"),
    ("--uds", ""),
    ("--uds", f"/tmp/{'x' * 108}"),
    ("--tls-cert", "no-such-file.pem"),
    ("--tls-cert", "good.py"),
    ("--tls-key", "good.py"),
    ("--admin", "9000"),
    ("--admin", ":9000"),
    ("--admin", "127.0.0.1:0"),
    ("--admin", "127.0.0.1:http"),
    ("--admin", "unix:"),
]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--header-timeout", "10s"), "'10s' is not a number: write it like 10 (seconds)"),
        (("--backlog", "4,096"), "'4,096' is not a whole number: write it like 5000, without separators or a unit"),
        (("--uds", "s", "--port", "9000"), "it takes the place of --host and --port: leave these out"),
        (("--uds", "s", "--host", "::"), "it takes the place of --host and --port: leave these out"),
    ],
)
def test_a_wrong_option_is_told_with_what_would_be_right(folder: Path, args: tuple[str, ...], message: str) -> None:
    """Not with the words of the library that reads options."""
    ran = shieldmw("serve", "good:app", *args, cwd=folder)
    assert ran.status == 2
    assert f"Invalid value for {args[0]}: {message}" in ran.err.replace("'--", "--").replace("':", ":")


@pytest.mark.parametrize("args", WRONG_OPTIONS)
def test_wrong_options_are_status_2(folder: Path, args: tuple[str, str]) -> None:
    """Before anything is loaded or started, with the option's name and without a traceback."""
    ran = shieldmw("serve", "good:app", *args, cwd=folder, SHIELD_ADMIN_TOKEN=TOKEN)
    assert ran.status == 2
    assert args[0] in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "shieldmw: --admin 127.0.0.1:9000: SHIELD_ADMIN_TOKEN: unset"),
        (
            {"SHIELD_ADMIN_TOKEN": TOKEN, "SHIELD_REDIS_URL": "memory://"},
            "SHIELD_REDIS_URL='memory://' is private to each process",
        ),
    ],
)
def test_a_listener_for_operators_needs_a_token_and_a_store(
    folder: Path, settings: dict[str, str], message: str
) -> None:
    """Without them there would be nothing to serve: one line, status 2."""
    ran = shieldmw("serve", "good:app", "--admin", "127.0.0.1:9000", cwd=folder, **settings)
    assert ran.status == 2
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "0.0.0.0:8000"])
def test_operators_have_another_port_than_the_app(folder: Path, address: str) -> None:
    """Else the kernel would deal the connections to either."""
    ran = shieldmw("serve", "good:app", "--admin", address, cwd=folder, SHIELD_ADMIN_TOKEN=TOKEN)
    assert ran.status == 2
    assert "the app is served on 127.0.0.1:8000" in ran.err


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (TcpAddress("a", "127.0.0.1", 1), TcpAddress("b", "127.0.0.1", 1), True),
        (TcpAddress("a", "127.0.0.1", 1), TcpAddress("a", "127.0.0.1", 2), False),
        (TcpAddress("a", "127.0.0.1", 1), TcpAddress("b", "127.0.0.2", 1), False),
        (TcpAddress("a", "::", 1), TcpAddress("b", "127.0.0.1", 1), True),
        (UnixAddress(Path("/a")), UnixAddress(Path("/a")), True),
        (UnixAddress(Path("/a")), TcpAddress("a", "127.0.0.1", 1), False),
    ],
)
def test_addresses_overlap(one: Address, other: Address, *, expected: bool) -> None:
    """The same port of the same address, or of all of them; the same path."""
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected


def test_an_address_for_operators_that_is_taken_is_said_clearly(folder: Path) -> None:
    """Status 1, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = shieldmw("serve", "good:app", "--admin", address, cwd=folder, SHIELD_ADMIN_TOKEN=TOKEN)
    assert ran.status == 1
    assert ran.err.startswith(f"Error: cannot listen on {address}: ")


@pytest.mark.parametrize(
    ("text", "url", "is_loopback"),
    [("127.0.0.1:9000", "http://127.0.0.1:9000", True), ("0.0.0.0:9000", "http://0.0.0.0:9000", False)],
)
def test_others_than_this_machine_are_warned_of(
    text: str, url: str, *, is_loopback: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The listener does not encrypt, so its place is on loopback or a unix socket."""
    host, _, port = text.rpartition(":")
    address = TcpAddress(host, host, int(port))
    warn_of_strangers(address)
    assert url_of(address) == url
    assert ("not encrypted" in capsys.readouterr().err) is not is_loopback


def test_a_key_that_is_none_is_said_clearly(folder: Path) -> None:
    """Files that are no certificate and key are named, and what would be right."""
    ran = shieldmw("serve", "good:app", "--tls-cert", "good.py", "--tls-key", "needs.py", cwd=folder)
    assert ran.status == 2
    assert "good.py and needs.py cannot be used" in ran.err
    assert "PEM" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("path", "message"), [("good.py", "no socket"), ("nowhere/s", "there is no folder"), ("taken", "another server")]
)
def test_a_socket_that_cannot_be_made_is_said_clearly(folder: Path, path: str, message: str) -> None:
    """A file of somebody else stays, and so does a server that listens there; status 1."""
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(folder / "taken"))
        taken.listen()
        ran = shieldmw("serve", "good:app", "--uds", path, cwd=folder)
    assert ran.status == 1
    assert f"cannot listen on unix:{path}" in ran.err
    assert message in ran.err
    assert (folder / "good.py").read_text() == MODULES["good.py"]


def test_a_worker_hands_over_the_interpreter_soon(folder: Path) -> None:
    """What granian's threads have read comes to the event loop while the app computes."""
    loaded = "import sys; from shieldmw.cli.worker import load_shielded; app = load_shielded('good:app')"
    ran = python(f"{loaded}; print(sys.getswitchinterval())", cwd=folder)
    assert ran.out.strip() == "0.0005", ran.err


def test_a_worker_spares_its_garbage_collector_what_stays(folder: Path) -> None:
    """What is there when a worker begins to serve is in no full collection: those stop all of its requests."""
    loaded = "import gc; from shieldmw.cli.worker import load_shielded; app = load_shielded('good:app')"
    ran = python(f"{loaded}; print(len(gc.get_objects()), gc.get_freeze_count())", cwd=folder)
    assert ran.status == 0, ran.err
    looked_at, frozen = map(int, ran.out.split())
    assert frozen > 10_000
    assert looked_at < frozen / 10


# --- in front of other servers --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name either an app as MODULE:APP, or --upstream URL"),
        (["good:app", "--upstream", "http://127.0.0.1:9000"], "name either an app as MODULE:APP, or --upstream URL"),
        (["--upstream", "127.0.0.1:9000"], "'127.0.0.1:9000': not an upstream: write it like http://127.0.0.1:9000"),
        (["--upstream", "http://127.0.0.1:9000/app"], "requests keep their own path, so an upstream has none"),
        (["--upstream", "http://me:secret@127.0.0.1"], "an upstream takes no user and password"),
        (["--upstream", "http://127.0.0.1:8123", "--port", "8123"], "is where the proxy itself listens"),
        (["--upstream", "http://localhost:8123", "--port", "8123", "--host", "0.0.0.0"], "where the proxy itself"),
    ],
)
def test_an_upstream_that_cannot_be_used_is_said_clearly(folder: Path, arguments: list[str], message: str) -> None:
    """Status 2 and a line that says what would be right; no password is shown, and nothing is started."""
    ran = shieldmw("serve", *arguments, cwd=folder, SHIELD_REDIS_URL="memory://")
    assert ran.status == 2, ran.err
    assert message in " ".join(ran.err.split())
    assert "secret" not in ran.err
    assert "Traceback" not in ran.err


def test_a_unix_socket_of_its_own_is_no_upstream(folder: Path) -> None:
    """Requests would go round for ever."""
    path = str(folder / "s")
    ran = shieldmw("serve", "--upstream", f"unix:{path}", "--uds", path, cwd=folder, SHIELD_REDIS_URL="memory://")
    assert (ran.status, "is where the proxy itself listens" in ran.err) == (2, True), ran.err
