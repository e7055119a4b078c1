"""A checked config from a mapping, and its JSON schema. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from ddrs.errors import DdrsError
from ddrs.experiment.checks import check_checkpoints, check_figures, check_parts
from ddrs.experiment.config import Config
from ddrs.sections import one_line


def load(raw: Mapping) -> Config:
    """Check a parsed config. DdrsError: one line that names each key and says what is allowed."""
    try:
        settings = Config(**raw)
        check_parts(settings)
        check_checkpoints(settings)
        check_figures(settings)
        return settings
    except ValidationError as error:
        raise DdrsError(f"config: {one_line(error)}") from None
    except (TypeError, ValueError) as error:
        raise DdrsError(f"config: {error}") from None


def json_schema() -> str:
    """The JSON schema of config.yaml; workflow/schemas/config.schema.json holds it for editors."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def write_json_schema(path: Path) -> None:
    """Write the JSON schema."""
    Path(path).write_text(json_schema(), encoding="utf-8")
