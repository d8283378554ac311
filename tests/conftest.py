"""Makes failed asserts in the harness show what differs, as in tests."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("doors.asgi.harness", "doors.asgi.shields")
