"""Failed asserts of the harness say what differs, as those of tests do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("doors.asgi.harness", "doors.asgi.shields")
