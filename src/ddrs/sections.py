"""The parts that config.yaml's model is built of: a strict section, types of values, and findings as one line."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ddrs.errors import DdrsError, nearest

Model = TypeVar("Model", bound=BaseModel)
SplitName = Literal["train", "validation", "test"]  # of a dataset; `certify` and `optimize_sigma` take any text


class Section(BaseModel):
    """A part of the config: keys that it does not know are errors, and so is every value out of range."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key, value in values.items():
                if isinstance(value, bool):
                    raise ValueError(f"{key} must not be {str(value).lower()}: no key is a switch")
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}{nearest(str(key), cls.model_fields)}; allowed are {', '.join(cls.model_fields)}")
        return values

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """The settings, or a DdrsError of one line instead of pydantic's report."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise DdrsError(one_line(error)) from None

    def __hash__(self) -> int:
        """Also where a setting is a mapping, which has no hash of its own."""
        return hash(self.model_dump_json())

    def unread(self) -> frozenset[str]:
        """Names of settings that the others leave unread: another value of such a one makes the same result."""
        return frozenset()

    def read(self) -> dict[str, Any]:
        """Settings by name, but for those that are unread, and `later` ones at their default."""
        kept = self.model_dump().keys() - self.unread()
        return {name: value for name, value in self if name in kept}


def later(default: Any, description: str) -> Any:
    """A field that dumps and flags leave out while it is at its default, so that what was made before there was the field stays as it is."""
    return Field(default, description=description, exclude_if=lambda value: value == default)


def own_settings(part: str, plugin: str, model: type[Model], given: Mapping[str, Any], shared: Mapping[str, Any]) -> Model:
    """The settings of a plug-in by its own model: those given for it, and those that it shares with others of its folder.

    part: what the plug-in is, and so how the given ones are called. DdrsError of one line for a name that is not its own, or a value out of range.
    """
    known = [field.alias or name for name, field in model.model_fields.items() if name not in shared]
    for name in given:
        if name not in known:
            raise DdrsError(f"{part}: unknown setting {name!r} of {plugin}{nearest(name, known)}; allowed are {', '.join(known) or 'none'}")
    try:
        return model(**shared, **given)
    except ValidationError as error:
        raise DdrsError(f"{part} of {plugin}: {one_line(error)}") from None


def one_line(error: ValidationError) -> str:
    """pydantic's findings as one line: each with its place in the config."""
    findings = []
    for finding in error.errors():
        place = ".".join(str(part) for part in finding["loc"])
        message = finding["msg"].removeprefix("Value error, ")
        given = finding.get("input")
        shown = f" (got {given!r})" if isinstance(given, int | float | str | bool | None) and "unknown" not in message else ""
        findings.append(f"{place}: {message}{shown}" if place else f"{message}{shown}")
    return "; ".join(findings)


def two_decimals(value: float) -> float:
    if round(value, 2) != value:
        raise ValueError("must have at most two decimals, as it stands in paths")
    return value


def _increasing(values: list) -> list:
    if any(a >= b for a, b in pairwise(values)):
        raise ValueError(f"must be increasing, got {values}")
    return values


Increasing = AfterValidator(_increasing)
Sigma = Annotated[float, Field(gt=0), AfterValidator(two_decimals)]
Radius = Annotated[float, Field(ge=0), AfterValidator(two_decimals)]
COUNT_MAX = 10**9  # of whatever is counted: more would run for years, or hold no memory of today
SEED_MAX = 2**64 - 1  # what torch's and NumPy's generators take
BATCH_MAX = 2**20  # inputs of one forward pass
THREADS_MAX = 1024
Count = Annotated[int, Field(ge=1, le=COUNT_MAX)]
BatchSize = Annotated[int, Field(ge=1, le=BATCH_MAX)]
Seed = Annotated[int, Field(ge=0, le=SEED_MAX)]


def count_of(text: str) -> int | None:
    """The whole number that digits say, from 0 to COUNT_MAX; None for any other text."""
    return int(text) if re.fullmatch("[0-9]{1,10}", text) and int(text) <= COUNT_MAX else None


def known_name(kind: str, known: Mapping[str, object]) -> AfterValidator:
    """A validator that accepts the names of a registry."""

    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}{nearest(name, known)}; known are {', '.join(known)}")
        return name

    return AfterValidator(check)


def _plugin_value(value: Any) -> float | int | dict[str, float]:
    """A number, also as the text of a flag, or a mapping from sigma (any spelling of the number) to one."""
    if isinstance(value, Mapping):
        return {f"{two_decimals(float(sigma)):.2f}": float(one) for sigma, one in value.items()}
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, float):
        return value
    try:
        number = int(value)
    except ValueError:
        return float(value)
    if abs(number) > COUNT_MAX:
        raise ValueError
    return number


def _checked_plugin_value(value: Any) -> float | int | dict[str, float]:
    try:
        return _plugin_value(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} must be a number, of at most {COUNT_MAX:,} if it is whole, or a mapping from sigma to a number") from None


PluginValue = Annotated[float | int | dict[str, float], BeforeValidator(_checked_plugin_value)]  # of a setting that a plug-in has
PluginValues = dict[str, PluginValue]


def _checked_listed(value: Any) -> Any:
    if not isinstance(value, list):
        return _checked_plugin_value(value)
    numbers = [_checked_plugin_value(one) for one in value]
    if not numbers or any(isinstance(one, dict) for one in numbers):
        raise ValueError(f"{value!r} must be a list of numbers, one or more")
    return _increasing(numbers)


ListedValues = dict[str, Annotated[float | int | dict[str, float] | list[float | int], BeforeValidator(_checked_listed)]]  # or several to try


def values_at(part: str, values: PluginValues, sigma: str) -> PluginValues:
    """The values with each mapping replaced by its value at one sigma (two decimals)."""
    picked: PluginValues = {}
    for name, value in values.items():
        if isinstance(value, dict) and sigma not in value:
            raise DdrsError(f"{part}: {name} has no value for sigma {sigma}; it has {', '.join(value)}")
        picked[name] = value[sigma] if isinstance(value, dict) else value
    return picked


def flags(settings: Section) -> str:
    """Settings as the flags of a verb; reading them back gives settings that make the same result."""
    words = []
    for name, value in settings.read().items():
        flag = "--" + name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, dict):
            words += [f"{flag} {key}={one}" for key, one in value.items()]
        elif isinstance(value, list):
            words += [f"{flag} {one}" for one in value]
        else:
            words.append(f"{flag} {value}")
    return " ".join(words)
