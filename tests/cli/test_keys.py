"""`shieldmw keys` on a real server: a key is shown once, never stored, and valid or revoked within a second."""

from __future__ import annotations

import re
import time
from base64 import b64encode
from hashlib import blake2b, sha256
from pathlib import Path

import httpx
import pytest

from cli.commands import Ran, invoke, shieldmw
from servers import RedisServer, asgi_server, free_port, redis_server, wait_until

# What the command promises, and what two processes on two busy cores may take beside it.
PROMISED_S = 1.0


def new(store: RedisServer, *args: str, **env: str) -> tuple[str, Ran]:
    """Issue a key; the key and all that was printed."""
    ran = invoke("keys", "new", *args, SHIELD_REDIS_URL=store.url, **env)
    assert ran.status == 0, ran.err
    return ran.out.strip(), ran


def everything_in(store: RedisServer) -> bytes:
    """All keys and values of the store, in one."""
    client = store.client()
    found = b""
    for key in client.scan_iter():
        found += bytes(key) + b"\n"
        kind = client.type(key)
        if kind == b"hash":
            found += repr(client.hgetall(key)).encode()
        elif kind == b"string":
            found += repr(client.get(key)).encode()
        elif kind == b"stream":
            found += repr(client.xrange(key)).encode()
        else:
            pytest.fail(f"a {kind!r} that this test does not read")
    return found


def test_the_key_is_printed_once_and_alone_on_stdout(store: RedisServer) -> None:
    """`KEY=$(shieldmw keys new alice)` works, and what else is said goes to stderr without the key."""
    key, ran = new(store, "alice")
    assert re.fullmatch(r"shk_[\w-]{43}\n", ran.out)
    assert key not in ran.err
    assert re.fullmatch(r"Key [0-9a-f]{12} for 'alice' \(member\)\. It will not be shown again\.\n", ran.err)


def test_every_key_is_another(store: RedisServer) -> None:
    """Also for the same subject."""
    assert len({new(store, "alice")[0] for _ in range(5)}) == 5


def test_the_key_is_never_in_the_store(store: RedisServer) -> None:
    """No key and no value of the store holds it, nor a hash that could be made without the secret."""
    key, _ = new(store, "alice")
    found = everything_in(store)
    assert b"alice" in found, "the scan sees what is there"
    for part in (key, key.removeprefix("shk_"), key[10:30]):
        assert part.encode() not in found
    for unkeyed in (sha256(key.encode()), blake2b(key.encode(), digest_size=32), blake2b(key.encode())):
        assert unkeyed.hexdigest().encode() not in found
        assert b64encode(unkeyed.digest()) not in found


def test_list_shows_ids_and_never_keys(store: RedisServer) -> None:
    """Id, class, time and subject of every key, the oldest first."""
    alice, _ = new(store, "alice", "--class", "host")
    bob, _ = new(store, "bob")
    ran = invoke("keys", "list", SHIELD_REDIS_URL=store.url)
    assert ran.status == 0
    rows = [re.fullmatch(r"([0-9a-f]{12})  (\w+) +(\S+Z)  '(\w+)'", line) for line in ran.out.splitlines()]
    assert sorted((row[4], row[2]) for row in rows if row) == [("alice", "host"), ("bob", "member")]
    assert alice not in ran.printed
    assert bob not in ran.printed


def test_an_empty_list_says_so(store: RedisServer) -> None:
    """Nothing on stdout, so that scripts see nothing."""
    ran = invoke("keys", "list", SHIELD_REDIS_URL=store.url)
    assert (ran.status, ran.out, ran.err) == (0, "", "No keys have been issued.\n")


@pytest.mark.parametrize("by", ["id", "subject"])
def test_revoke_by_id_or_by_subject(store: RedisServer, by: str) -> None:
    """An id takes one key, a subject takes all of that subject's, and others stay."""
    ids = [re.findall(r"Key (\w+)", new(store, "alice")[1].err)[0] for _ in range(2)]
    new(store, "bob")
    ran = invoke("keys", "revoke", ids[0] if by == "id" else "alice", SHIELD_REDIS_URL=store.url)
    assert ran.status == 0
    assert ran.out.startswith("Revoked 1 key;" if by == "id" else "Revoked 2 keys;")
    left = invoke("keys", "list", SHIELD_REDIS_URL=store.url).out
    assert (ids[0] in left, ids[1] in left, "'bob'" in left) == (False, by == "id", True)


def test_revoking_what_is_not_there_fails(store: RedisServer) -> None:
    """Somebody who mistypes an id must not believe that the key is revoked."""
    new(store, "alice")
    for wrong in ("0" * 12, "alic", "", "version"):
        ran = invoke("keys", "revoke", wrong, SHIELD_REDIS_URL=store.url)
        assert ran.status == 1
        assert "neither the id nor the subject" in ran.err


@pytest.mark.parametrize("subject", ["a:b{}", "line\nbreak", "ä\U0001f512", "\x1b[2J", "version", " ", "x" * 1024])
def test_any_text_can_be_a_subject_and_none_breaks_the_list(store: RedisServer, subject: str) -> None:
    """One line for each key, printable, whatever the subject is."""
    _, ran = new(store, "--", subject)
    assert len(ran.err.splitlines()) == 1
    listed = invoke("keys", "list", SHIELD_REDIS_URL=store.url).out
    assert len(listed.splitlines()) == 1
    assert listed.rstrip("\n").isprintable()
    assert invoke("keys", "revoke", "--", subject, SHIELD_REDIS_URL=store.url).status == 0


@pytest.mark.parametrize("subject", ["", "x" * 1025])
def test_a_subject_that_cannot_be_is_refused(store: RedisServer, subject: str) -> None:
    """Status 2, and nothing is issued."""
    ran = invoke("keys", "new", subject, SHIELD_REDIS_URL=store.url)
    assert ran.status == 2
    assert "1 to 1024 characters" in ran.err
    assert store.client().dbsize() == 0


def test_an_unknown_class_is_refused(store: RedisServer) -> None:
    """Status 2 with the classes there are."""
    ran = invoke("keys", "new", "alice", "--class", "king", SHIELD_REDIS_URL=store.url)
    assert ran.status == 2
    assert "host" in ran.err


def test_an_entry_with_an_impossible_time_does_not_break_the_list(store: RedisServer) -> None:
    """Whatever somebody else wrote there: a list, and no traceback."""
    new(store, "alice")
    client = store.client()
    client.hset("shield:api-keys", "a" * 64, '{"subject": "x", "class": "host", "created": 1e30}')
    ran = invoke("keys", "list", SHIELD_REDIS_URL=store.url)
    assert ran.status == 0
    assert "'alice'" in ran.out


# --- stores that cannot be used ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "told"),
    [("memory://", "is private to each process"), ("embedded://", "set it to the unix:// URL that 'shieldmw serve'")],
)
def test_a_store_of_one_process_cannot_share_keys(url: str, told: str) -> None:
    """A key that nobody could ever use is not issued."""
    ran = shieldmw("keys", "new", "alice", SHIELD_REDIS_URL=url)
    assert ran.status == 2
    assert told in ran.err
    assert "shk_" not in ran.printed


def test_without_an_answer_no_key_is_shown() -> None:
    """Status 1, one line, no traceback."""
    ran = shieldmw("keys", "new", "alice", SHIELD_REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    assert ran.status == 1
    assert len(ran.err.splitlines()) == 1, ran.err
    assert "the store did not answer" in ran.err
    assert "shk_" not in ran.printed


def test_a_wrong_password_is_not_shown() -> None:
    """Status 1, one line, and no password in it."""
    with redis_server("valkey", requirepass="right-password") as server:
        ran = shieldmw("keys", "list", SHIELD_REDIS_URL=f"redis://:wrong-password@127.0.0.1:{server.port}")
    assert (ran.status, len(ran.err.splitlines())) == (1, 1)
    assert "wrong-password" not in ran.printed


# --- in a running fleet -----------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, "q" * 40], ids=["secret kept in the store", "secret set"])
def test_a_key_works_and_stops_within_a_second_on_every_worker(
    store: RedisServer, tmp_path: Path, secret: str | None
) -> None:
    """Issued and revoked with the real command, while two workers serve."""
    env = {"SHIELD_REDIS_URL": store.url} | ({} if secret is None else {"SHIELD_SECRET": secret})
    with asgi_server("uvicorn", "shielded_app:shielded", env=env, cwd=tmp_path, workers=2) as server:

        def subjects(key: str) -> set[str | None]:
            """Whom enough fresh connections see, so that every worker is among them."""
            headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
            answers = [httpx.get(f"{server.base_url}/who", headers=headers) for _ in range(8)]
            return {answer.json()["subject"] for answer in answers}

        ran = shieldmw("keys", "new", "alice", **env)
        ended = time.monotonic()
        assert ran.status == 0, ran.err
        key = ran.out.strip()
        wait_until(lambda: subjects(key) == {"alice"}, PROMISED_S, "the key to work", server.log)
        assert time.monotonic() - ended < PROMISED_S + 0.5
        ran = shieldmw("keys", "revoke", "alice", **env)
        assert ran.status == 0, ran.err
        wait_until(lambda: subjects(key) == {None}, PROMISED_S, "the key to stop", server.log)
        assert key not in server.log()
