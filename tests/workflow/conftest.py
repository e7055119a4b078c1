"""Fixtures of the workflow tests."""

from running import plan_here, tiny, warm  # noqa: F401
