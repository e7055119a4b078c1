"""The settings of the sigma search, as they stand in config.yaml and in the verbs' flags. No torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ddrs.sections import BatchSize, Count, PluginValues, Section, known_name, later, own_settings, values_at
from ddrs.sigma.strategies import STRATEGIES

StrategyName = Annotated[str, known_name("strategy", STRATEGIES)]


class StepSettings(Section):
    """One step of the sigma search."""

    step_size: float = Field(1e-4, gt=0, description="alpha of Algorithm 1")
    samples: Count = Field(1, description="noise samples per step (the paper's n)")
    sigma_min: float = Field(1e-3, gt=0, description="sigma is kept at or above this")
    sigma_max: float = Field(2.0, gt=0, description="sigma is kept at or below this")

    @model_validator(mode="after")
    def _interval(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min} must be below sigma_max = {self.sigma_max}")
        return self


class SearchSettings(StepSettings):
    """The sigma search."""

    strategy: StrategyName = Field(
        "ascent", description="ascent: Algorithm 1; grid: the best of k_max points up to 1 (GDS, Appendix B), which reads no step_size"
    )
    k_max: Count = Field(
        description="steps of the stored trajectory, or points of the grid; certification takes any K up to it; a change searches anew"
    )
    objective_class: Literal["current", "fixed"] = Field(
        "current", description="current: the class is picked again in each step (Algorithm 1); fixed: the class at sigma_0 (Equation 3)"
    )
    batch_size: BatchSize = Field(100, description="images searched at once")
    set: PluginValues = later({}, description="settings of the strategy's own")

    def at_sigma(self, sigma: str) -> Self:
        """The same settings with the mappings of `set` replaced by their value at one sigma (two decimals)."""
        return self.model_copy(update={"set": values_at(self.strategy, self.set, sigma)})

    def of_strategy(self) -> "SearchSettings":
        """The settings as the strategy's own model has them."""
        shared = {**{name: getattr(self, name) for name in SearchSettings.model_fields}, "set": {}}
        return own_settings("strategy", self.strategy, STRATEGIES.module(self.strategy).Settings, self.set, shared)
