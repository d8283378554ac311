"""`shieldmw env` prints the settings that `Settings` reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dotenv import dotenv_values

from cli.commands import invoke
from shieldmw import Settings
from shieldmw.core.rules import Scope

VARIABLES = [f"SHIELD_{name.upper()}" for name in Settings.model_fields]


def rows_of(markdown: str) -> dict[str, tuple[str, str]]:
    """Default and meaning of each variable in a Markdown table; a `|` inside a cell would break it."""
    head, rule, *lines = markdown.splitlines()
    assert (head, rule) == ("| variable | default | meaning |", "|---|---|---|")
    cells = [re.fullmatch(r"\| `(\w+)` \| (?:`([^`|]*)`)? ?\| ([^|]+) \|", line) for line in lines]
    assert all(cells), [line for line, cell in zip(lines, cells, strict=True) if cell is None]
    return {cell[1]: (cell[2] or "", cell[3]) for cell in cells if cell}


def blocks_of(text: str) -> dict[str, tuple[str, str]]:
    """Default and meaning of each variable in a file of variables."""
    found = re.findall(r"^# (.+)\n#(SHIELD_\w+)=(.*)$", text, re.MULTILINE)
    return {name: (default, meaning) for meaning, name, default in found}


def test_the_table_has_every_variable_once_and_in_order() -> None:
    """Each setting has a row with a meaning, and there is no other row."""
    rows = rows_of(invoke("env").out)
    assert list(rows) == VARIABLES
    assert all(len(meaning) > 5 or meaning == "likewise" for _, meaning in rows.values())


def test_both_formats_say_the_same() -> None:
    """Table and file agree on defaults and meanings."""
    assert blocks_of(invoke("env", "--format", "file").out) == rows_of(invoke("env", "--format", "markdown").out)


def test_the_file_with_all_defaults_uncommented_is_the_default_settings() -> None:
    """Every default is written the way it is read."""
    blocks = blocks_of(invoke("env", "--format", "file").out)
    assert Settings.from_environ({name: default for name, (default, _) in blocks.items()}) == Settings()


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if Settings.model_fields[name].default])
def test_each_default_reads_back_alone(name: str) -> None:
    """One variable set to its printed default changes nothing."""
    default, _ = blocks_of(invoke("env", "--format", "file").out)[f"SHIELD_{name.upper()}"]
    assert default
    settings = Settings.from_environ({f"SHIELD_{name.upper()}": default})
    assert getattr(settings, name) == getattr(Settings(), name)
    assert name in settings.model_fields_set


def test_the_file_has_nothing_but_comments_and_variables() -> None:
    """Each line is empty, a comment, or a variable that is commented out."""
    for line in invoke("env", "--format", "file").out.splitlines():
        assert line == "" or line.startswith("# ") or re.fullmatch(r"#SHIELD_\w+=.*", line), line


def by_shell(file: Path) -> dict[str, str]:
    script = f"set -eua; . {file}; exec {sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    ran = subprocess.run(["/bin/sh", "-c", script], env={}, capture_output=True, text=True, check=True)
    return {name: value for name, value in json.loads(ran.stdout).items() if name.startswith("SHIELD_")}


def by_dotenv(file: Path) -> dict[str, str]:
    """As uvicorn does."""
    return {name: value or "" for name, value in dotenv_values(file).items()}


def as_they_are(file: Path) -> dict[str, str]:
    """As docker does: what follows = is the value, quotes and all. systemd differs only if there are quotes or a \\."""
    lines = [line for line in file.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("read", [by_shell, by_dotenv, as_they_are])
def test_every_way_to_load_the_file_reads_the_same(read: Callable[[Path], dict[str, str]], tmp_path: Path) -> None:
    """Every default, and values written as the first lines say, arrive in a shell, uvicorn and docker as written."""
    changed = {"SHIELD_IP_LIMIT": "10/second,300/minute", "SHIELD_LIVE_PATHS": "/live,/chat/*"}
    text = re.sub(r"^#(SHIELD_)", r"\1", invoke("env", "--format", "file").out, flags=re.MULTILINE)
    for name, value in changed.items():
        text = re.sub(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
    file = tmp_path / "shield.env"
    file.write_text(text, "utf-8")
    loaded = read(file)
    assert sorted(loaded) == sorted(VARIABLES)
    assert Settings.from_environ(loaded) == Settings.from_environ(changed)
    assert [limit.amount for limit in Settings.from_environ(loaded).policy.limits(Scope.IP)] == [10, 300]


def test_the_help_names_the_formats_in_the_order_of_their_use() -> None:
    """The default comes first, and each format is explained."""
    text = " ".join(invoke("env", "--help").out.split())
    assert "[markdown|file]" in text
    assert "markdown: a table" in text
    assert "file: one variable a line" in text


def test_env_works_with_wrong_settings() -> None:
    """The settings are listed even if one of them is wrong."""
    assert invoke("env", SHIELD_IP_LIMIT="nonsense").status == 0


def test_an_unknown_format_is_refused() -> None:
    """Exit status 2 and the formats there are."""
    ran = invoke("env", "--format", "xml")
    assert ran.status == 2
    assert "markdown" in ran.err
