"""docs/architecture.md names every module, and the code obeys its rules."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from docs.documents import ARCHITECTURE, PACKAGE, in_backticks, project_files, section
from servers import REPOSITORY, missing

FLOORS = ("core", "store", "gate", "answers", "doors", "admin")
MODULES = sorted(PACKAGE.rglob("*.py"))


def generated(module: Path) -> bool:
    """Whether nobody has written a module: it stands beside what it was made from."""
    return module.stem.endswith("_pb2")


def test_the_map_is_short() -> None:
    """At most 2,600 words, of which a third is only looked up (the code map), so that every contributor reads it."""
    assert len([text for text in ARCHITECTURE.split() if re.search(r"\w", text)]) <= 2600


def test_the_map_is_wrapped() -> None:
    """Lines of at most 120 characters, except for rows of tables, which cannot be wrapped."""
    assert [line for line in ARCHITECTURE.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_every_file_that_is_named_exists() -> None:
    """A path in backticks is one from the repository, from the package, or from the store."""
    named = [
        text for text in in_backticks(ARCHITECTURE) if re.fullmatch(r"[\w/.-]+(/|\.(py|lua|md|toml|env|html))", text)
    ]
    assert len(named) > 20
    homes = (REPOSITORY, PACKAGE, PACKAGE / "gate", PACKAGE / "store", PACKAGE / "store" / "lua")
    assert [path for path in named if not any((home / path).exists() for home in homes)] == []


@pytest.mark.parametrize("floor", FLOORS)
def test_every_module_of_a_floor_is_on_the_map(floor: str) -> None:
    """The code map names exactly the modules that a floor has."""
    paragraphs = section(ARCHITECTURE, "Code map").split("\n\n")
    (paragraph,) = [text for text in paragraphs if text.lstrip().startswith(f"**`{floor}/`**")]
    named = re.findall(r"`([a-z0-9_]+)`", paragraph.partition("**Invariant:**")[0])
    modules = [path.stem for path in (PACKAGE / floor).rglob("*.py") if path.stem != "__init__" and not generated(path)]
    assert sorted(named) == sorted(modules)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(module: Path) -> None:
    """A module starts with a docstring whose first line is a sentence."""
    docstring = ast.get_docstring(ast.parse(module.read_text("utf-8")))
    assert docstring
    assert re.search(r"[.:;]$", docstring.split("\n\n")[0]), docstring


def test_imports_go_down_only() -> None:
    """The import contracts of pyproject.toml hold."""
    lint_imports = Path(sysconfig.get_path("scripts"), "lint-imports")
    if not lint_imports.exists():
        missing("import-linter")
    result = subprocess.run([lint_imports, "--no-cache"], cwd=REPOSITORY, capture_output=True, check=False, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", result.stdout), result.stdout


def test_the_public_types_are_as_users_need_them() -> None:
    """tests/typing/api.py passes mypy --strict: what must be possible is, what must not pass does not."""
    if find_spec("mypy") is None:
        missing("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "tests/typing/api.py"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


# Written in pieces, so that this file does not find itself.
FOREIGN = {
    "a package host": rf"\b({'py' + 'pi'}\.org|{'python' + 'hosted'}\.org|{'npm' + 'js'}\.|index{'-' + 'url'})",
    "a home folder": rf"(?<![\w.])/({'home'}/\w+/|{'root'}/\.|{'Users'}/\w+/)",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_no_file_names(what: str) -> None:
    """Nothing in the project depends on where it was made, or on where its parts come from."""
    pattern = re.compile(FOREIGN[what])
    files = project_files()
    assert len(files) > 100
    found = [(path.name, hit[0]) for path in files if (hit := pattern.search(path.read_text("utf-8", "replace")))]
    assert found == []
