"""Names that a config may use, each checked against its registry."""

import re
from typing import Annotated

from pydantic import AfterValidator

from ddrs.data.requests import NAMES
from ddrs.data.sources import SOURCES
from ddrs.errors import nearest
from ddrs.models.architectures import ARCHITECTURES
from ddrs.models.own import FACTORY, is_own
from ddrs.rows import TABLES
from ddrs.sections import known_name
from ddrs.training.losses import METHODS


def _dataset(name: str) -> str:
    if not re.fullmatch(NAMES, name):
        raise ValueError(f"dataset {name!r}: must be lower-case letters, digits, _ and -, the first a letter, as it stands in paths")
    return name


DatasetName = Annotated[str, AfterValidator(_dataset)]
DatasetKind = Annotated[str, known_name("kind", SOURCES)]
MethodName = Annotated[str, known_name("method", METHODS)]
TableName = Annotated[str, known_name("table", TABLES)]


def _architecture(name: str) -> str:
    if is_own(name):
        if not re.fullmatch(FACTORY, name):
            raise ValueError(f"architecture {name!r}: must be a name, or package.module:factory")
    elif name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"unknown architecture {name!r}{nearest(name, ARCHITECTURES)}; known are {known}, or package.module:factory of your own")
    return name


Architecture = Annotated[str, AfterValidator(_architecture)]
