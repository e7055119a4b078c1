"""Fixtures of the workflow tests."""

from running import plan_here, tiny  # noqa: F401
