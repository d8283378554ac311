"""Renders decisions as status, headers and body. Pure: nothing here sends."""
