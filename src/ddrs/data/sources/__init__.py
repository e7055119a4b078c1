"""Kinds of datasets. A kind is one file here with its `SOURCE`: pools in memory, or `prepare` where it is larger; and what its splits hold."""

from ddrs.data.requests import Source
from ddrs.registry import Folder

SOURCES = Folder("dataset", __name__)


def source_of(kind: str) -> Source:
    """Where a kind of dataset comes from. DdrsError for an unknown one."""
    return SOURCES.module(kind).SOURCE
