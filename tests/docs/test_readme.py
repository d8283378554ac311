"""The README is up to date: its tables come from the code, its example runs, its commands exist."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.commands import invoke
from docs.documents import README, blocks, in_backticks, project_files, section
from e2e.clients import Answer, ask, fresh_address
from servers import REPOSITORY, AsgiKind, HttpServer, asgi_server, redis_server
from shieldmw import Settings
from shieldmw.cli.env import env
from shieldmw.cli.main import COMMANDS
from shieldmw.core.decision import OnStoreFailure
from shieldmw.settings import rows
from shieldmw.settings.problems import COMMAND_VARIABLES, ENV_PREFIX, SECRET_FIELDS

# What the server adds, each its own way, and curl -i of the README leaves out.
OF_THE_SERVER = {"date", "server"}


# Settings that are of no use without another one.
NEEDED = {"SHIELD_REDIRECT_TO_RECORDING": {"SHIELD_RECORDING_URL": "https://example.org/recording.m3u8"}}


# --- settings, commands, failures -----------------------------------------------------------------


def _output(*arguments: str) -> str:
    return CliRunner().invoke(env, arguments, catch_exceptions=False).output


def test_the_settings_table_is_that_of_the_code() -> None:
    """Between the two comments stands what `shieldmw env` prints, character by character."""
    found = re.search(r"<!-- settings: .* -->\n(.*)<!-- end of settings -->", README, re.DOTALL)
    assert found
    assert found[1] == _output()


def test_the_file_of_variables_is_that_of_the_code() -> None:
    """examples/shield.env is what `shieldmw env --format file` prints."""
    assert (REPOSITORY / "examples" / "shield.env").read_text("utf-8") == _output("--format", "file")


def test_every_setting_that_is_named_exists() -> None:
    """No document names a SHIELD_ variable that the code does not know."""
    known = {variable for variable, _, _ in rows()} | COMMAND_VARIABLES
    documents = [path for path in project_files() if path.suffix in (".md", ".env", ".conf")]
    documents = [path for path in documents if path.name != "CHANGELOG.md"]
    assert len(documents) > 3
    for path in documents:
        named = set(re.findall(r"\bSHIELD_[A-Z0-9_]*[A-Z0-9]\b(?![_*]|_\*)", path.read_text("utf-8")))
        assert named <= known, path


def test_every_example_of_a_setting_is_valid() -> None:
    """Wherever a document sets a variable it may be written like that; values that are left out do not count."""
    documents = [path for path in project_files() if path.suffix in (".md", ".conf")]
    examples = [
        (path.name, name, value.strip("'"))
        for path in documents
        if path.name != "CHANGELOG.md"
        for name, value in re.findall(r"\b(SHIELD_[A-Z0-9_]+)=('[^']*'|[^\s`'\")]+)", path.read_text("utf-8"))
        if name.removeprefix(ENV_PREFIX).lower() not in SECRET_FIELDS and "…" not in value
    ]
    assert len(examples) > 20
    for path, name, value in examples:
        assert Settings.from_environ({**NEEDED.get(name, {}), name: value}), (path, name, value)


def test_every_command_is_named() -> None:
    """Each command of the command line stands in the README, and no command that there is not."""
    made = re.findall(r"^\t.*(shieldmw \w+)$", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE)
    code = "\n".join((*blocks(README, "sh"), *in_backticks(README), *made))
    assert set(re.findall(r"shieldmw (\w+)", code)) == set(COMMANDS)


def test_every_failure_mode_is_explained() -> None:
    """The three ways to go on without the store stand in a table of their own."""
    explained = re.findall(r"^\| `([a-z]+)`", section(README, "When Redis is away"), re.MULTILINE)
    assert explained == [mode.value for mode in OnStoreFailure]


def test_targets_and_extras_exist() -> None:
    """Every `make` target and every extra that a document names can be used."""
    documents = "".join(path.read_text("utf-8") for path in project_files() if path.suffix == ".md")
    targets = set(re.findall(r"^make (\w+)", "\n".join(blocks(README, "sh")), re.MULTILINE))
    targets |= set(re.findall(r"`make (\w+)`", documents))
    assert {"demo", "test", "check"} <= targets
    assert targets <= set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {name for named in re.findall(r"shieldmw\[([\w,]+)\]", documents) for name in named.split(",")}
    assert extras
    assert extras <= set(project["optional-dependencies"])
    assert f"Python {project['requires-python'].removeprefix('>=')}" in README


def test_links_lead_somewhere() -> None:
    """Every relative link of every document leads to a file."""
    for path in project_files():
        if path.suffix == ".md":
            links = re.findall(r"\]\(([^)\s#]+)", path.read_text("utf-8"))
            broken = [link for link in links if "://" not in link and not (path.parent / link).exists()]
            assert not broken, path


# --- the example ----------------------------------------------------------------------------------


def test_the_example_has_ten_lines() -> None:
    """What is called ten lines is ten lines, blank ones not counted."""
    (example,) = blocks(section(README, "In ten lines"), "python")
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 10


@pytest.mark.parametrize("kind", ["uvicorn", "shieldmw"])
def test_the_example_answers_as_shown(kind: AsgiKind, tmp_path: Path) -> None:
    """Request 31 gets the answer shown, but for its numbers: with the middleware, or left as it is to serve."""
    (example,) = blocks(section(README, "In ten lines"), "python")
    if kind == "shieldmw":
        example = _without_the_middleware(example)
    (tmp_path / "app.py").write_text(example, "utf-8")
    environment = {**_settings_of_the_example(), "SHIELD_REDIS_URL": "memory://", "SHIELD_REDIS_TIMEOUT_MS": "5000"}
    with asgi_server(kind, "app:app", env=environment, cwd=tmp_path) as server:
        _assert_refused_as_shown(server)


def test_there_is_nothing_to_warn_of_in_the_example() -> None:
    """`shieldmw check` says no more than that the settings of the first command are valid."""
    with redis_server("valkey") as store:
        ran = invoke("check", **{**_settings_of_the_example(), "SHIELD_REDIS_URL": store.tcp_url})
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("ok: settings are valid")


def _settings_of_the_example() -> dict[str, str]:
    """What is set in front of the README's first command."""
    first = next(block for block in blocks(section(README, "In ten lines"), "sh"))
    return dict(word.split("=", 1) for word in first.split() if word.startswith("SHIELD_"))


def _without_the_middleware(example: str) -> str:
    """The app before the shield was added to it."""
    bare = example.replace(", middleware=[Middleware(ShieldMiddleware)]", "")
    assert bare != example
    return bare


def _assert_refused_as_shown(server: HttpServer) -> None:
    address = fresh_address()
    admitted = [ask(server, address, "/") for _ in range(30)]
    assert [answer.body.decode() for answer in admitted] == [f"hello {address}"] * 30
    real, shown = ask(server, address, "/"), _shown()
    assert real.status == shown.status
    names = [name for name in real.headers if name not in OF_THE_SERVER]
    assert {name: _without_numbers(real.headers[name]) for name in names} == {
        name: _without_numbers(value) for name, value in shown.headers.items()
    }
    real_body, shown_body = json.loads(real.body), json.loads(shown.body)
    assert list(real_body) == list(shown_body)
    assert _without_numbers(real.body.decode()) == _without_numbers(shown.body.decode())
    assert int(shown.headers["content-length"]) == len(shown.body), "the answer shown is not one that was given"


def _shown() -> Answer:
    """The answer in the README, as curl -i wrote it."""
    (block,) = blocks(section(README, "In ten lines"), "console")
    command, status, *rest = block.splitlines()
    assert command.startswith("$ curl -i ")
    assert status == "HTTP/1.1 429 Too Many Requests"
    blank = rest.index("")
    headers = dict(line.split(": ", 1) for line in rest[:blank])
    return Answer(429, headers, "\n".join(rest[blank + 1 :]).encode())


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "N", text)
