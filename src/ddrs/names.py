"""Names that a config may use, each checked against its registry."""

import re
from typing import Annotated

from pydantic import AfterValidator

from ddrs.architectures import ARCHITECTURES
from ddrs.published import TABLES
from ddrs.sections import known_name
from ddrs.sources import DATASETS, NAMES
from ddrs.training import METHODS


def _dataset(name: str) -> str:
    if not re.fullmatch(NAMES, name):
        raise ValueError(f"dataset {name!r}: must be lower-case letters, digits, _ and -, the first a letter, as it stands in paths")
    return name


Dataset = Annotated[str, AfterValidator(_dataset)]
Kind = Annotated[str, known_name("kind", DATASETS)]
Method = Annotated[str, known_name("method", METHODS)]
Table = Annotated[str, known_name("table", TABLES)]
Architecture = Annotated[str, known_name("architecture", ARCHITECTURES)]
