"""Fixtures of the workflow tests."""

from running import tiny  # noqa: F401
