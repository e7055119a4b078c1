"""The part of config.yaml that says what Figures 6, 7, 8 and 9 show. The others follow the tables, or need nothing of the experiment."""

from typing import Annotated, Literal

from pydantic import Field

from ddrs.experiment.names import DatasetName, MethodName
from ddrs.rows import KINDS
from ddrs.sections import COUNT_MAX, Count, Increasing, Section, Sigma
from ddrs.sigma.settings import SearchSettings

ILLUSTRATED = {"1": "sigma", "2": "memory"}  # the figures of an idea, each a file of figures/illustrations, which need nothing of the experiment
TRAJECTORIES = tuple(name for name, kind in KINDS.items() if kind.trajectory)
Quantile = Annotated[float, Field(ge=0, le=1)]


class ExamplesPanel(Section):
    """Figures 6 and 9: test images of one DS row, with noise at the fixed sigma and at their own."""

    dataset: DatasetName
    method: MethodName
    sigma: Sigma = Field(description="training sigma, and the fixed one")
    k: Count = Field(description="search steps behind the images' own sigma")
    quantiles: Annotated[list[Quantile], Increasing] = Field(
        min_length=1, description="which images: those at these quantiles of sigma*_x among the correctly certified"
    )


class StepsPanel(Section):
    """Figure 7: one panel, a curve per K from one stored trajectory; K = 0 is its start."""

    dataset: DatasetName
    method: MethodName
    row: Literal[*TRAJECTORIES] = Field(  # pyright: ignore[reportInvalidTypeForm]
        "ds", description="ds: model of a fixed sigma; ds2: of data-dependent training"
    )
    sigma: Sigma = Field(description="training sigma, where the trajectory starts")
    k: Annotated[list[Annotated[int, Field(ge=0, le=COUNT_MAX)]], Increasing] = Field(min_length=1, description="search steps, a curve each")


class GridFigure(Section):
    """Figure 8: Algorithm 1 against grids of the same budget, for every sigma of a dataset."""

    dataset: DatasetName
    method: MethodName
    k: Count = Field(description="steps of Algorithm 1; with search.samples they are the budget: 2 * k * samples evaluations per image")
    samples: Annotated[list[Count], Increasing] = Field(
        min_length=1, description="samples per point of the grids, which have budget / samples points"
    )

    def budget(self, search: SearchSettings) -> int:
        """Evaluations of the model per image: a step of Algorithm 1 has a forward and a backward pass of each sample."""
        return 2 * self.k * search.samples

    def grids(self, search: SearchSettings) -> dict[int, SearchSettings]:
        """The settings of each grid, by its number of points; step_size is at its default, as a grid reads none."""
        read = search.model_dump(exclude={"step_size"})
        points = {self.budget(search) // n: n for n in self.samples}
        return {k: type(search)(**{**read, "strategy": "grid", "k_max": k, "samples": n}) for k, n in points.items()}


class FiguresSettings(Section):
    """What each figure shows; an empty list leaves it out."""

    figure6: list[ExamplesPanel] = Field([], description="examples, a group of columns per entry")
    figure7: list[StepsPanel] = Field([], description="certified accuracy for growing K, a panel per entry")
    figure8: list[GridFigure] = Field([], description="Algorithm 1 against grid search, a row of panels per entry")
    figure9: list[ExamplesPanel] = Field([], description="more examples")
