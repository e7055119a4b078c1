"""Names that a config may use, each checked against its registry."""

from typing import Annotated

from ddrs.architectures import ARCHITECTURES
from ddrs.published import TABLES
from ddrs.sections import known_name
from ddrs.sources import DATASETS
from ddrs.training import METHODS

Dataset = Annotated[str, known_name("dataset", DATASETS)]
Method = Annotated[str, known_name("method", METHODS)]
Table = Annotated[str, known_name("table", TABLES)]
Architecture = Annotated[str, known_name("architecture", ARCHITECTURES)]
