"""Searches for a sigma per image. A strategy is one file here: `Settings`, `evaluations` and `search`; it imports torch in functions only."""

from ddrs.registry import Folder

STRATEGIES = Folder("strategy", __name__)
