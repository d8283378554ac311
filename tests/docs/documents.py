"""The documents under test and how to read them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from servers import REPOSITORY, missing

README = (REPOSITORY / "README.md").read_text("utf-8")
ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text("utf-8")
INTEGRATION = (REPOSITORY / "docs" / "integration.md").read_text("utf-8")
PACKAGE = REPOSITORY / "shieldmw"


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next of its kind."""
    found = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section '{heading}'"
    return found[1]


def in_backticks(text: str) -> list[str]:
    """Everything quoted as code within lines."""
    return re.findall(r"`([^`\n]+)`", text)


def project_files() -> list[Path]:
    """Every file that is, or is about to be, part of the project."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        missing("git, or the clone that this is a copy of,")
    return [path for name in listed.split("\0") if name and (path := REPOSITORY / name).is_file()]
