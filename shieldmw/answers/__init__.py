"""Decisions rendered into status, headers and body. Pure: nothing here sends."""
