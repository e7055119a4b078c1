"""The part of config.yaml that says what Figures 6, 7, 8 and 9 show. The others follow the tables, or need nothing of the experiment."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ddrs.config_checks import part_of
from ddrs.names import Dataset, Method
from ddrs.rows import FIXED, KINDS, Kind
from ddrs.sections import COUNT_MAX, Count, Increasing, Section, Sigma

if TYPE_CHECKING:
    from ddrs.config import Config, SearchSettings

TRAJECTORIES = tuple(name for name, kind in KINDS.items() if kind.trajectory)
Quantile = Annotated[float, Field(ge=0, le=1)]


class ExamplesPanel(Section):
    """Figures 6 and 9: test images of one DS row, with noise at the fixed sigma and at their own."""

    dataset: Dataset
    method: Method
    sigma: Sigma = Field(description="training sigma, and the fixed one")
    k: Count = Field(description="search steps behind the images' own sigma")
    quantiles: Annotated[list[Quantile], Increasing] = Field(
        min_length=1, description="which images: those at these quantiles of sigma*_x among the correctly certified"
    )


class StepsPanel(Section):
    """Figure 7: one panel, a curve per K from one stored trajectory; K = 0 is its start."""

    dataset: Dataset
    method: Method
    row: Literal[*TRAJECTORIES] = Field(  # pyright: ignore[reportInvalidTypeForm]
        "ds", description="ds: model of a fixed sigma; ds2: of data-dependent training"
    )
    sigma: Sigma = Field(description="training sigma, where the trajectory starts")
    k: Annotated[list[Annotated[int, Field(ge=0, le=COUNT_MAX)]], Increasing] = Field(min_length=1, description="search steps, a curve each")


class GridFigure(Section):
    """Figure 8: Algorithm 1 against grids of the same budget, for every sigma of a dataset."""

    dataset: Dataset
    method: Method
    k: Count = Field(description="steps of Algorithm 1; with search.samples they are the budget: 2 * k * samples evaluations per image")
    samples: Annotated[list[Count], Increasing] = Field(
        min_length=1, description="samples per point of the grids, which have budget / samples points"
    )

    def budget(self, search: "SearchSettings") -> int:
        """Evaluations of the model per image: a step of Algorithm 1 has a forward and a backward pass of each sample."""
        return 2 * self.k * search.samples

    def grids(self, search: "SearchSettings") -> dict[int, "SearchSettings"]:
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


def check_figures(settings: "Config") -> None:
    """ValueError unless the figures show what the config has: datasets, trained methods, sigmas, and K within the search."""
    seen = set()
    for figure, panels in settings.figures:
        for i, panel in enumerate(panels):
            name, method, place = panel.dataset, panel.method, f"figures.{figure}.{i}"
            _check_model(settings, place, name, method, KINDS[panel.row] if isinstance(panel, StepsPanel) else FIXED)
            own, search = settings.on(name, method), settings.search_on(name, method)
            if not isinstance(panel, GridFigure) and panel.sigma not in own.sigmas:
                raise ValueError(f"{place}: sigma {panel.sigma} is none of {method} on {name}: {own.sigmas}")
            largest = max(panel.k) if isinstance(panel, StepsPanel) else panel.k
            if largest > search.k_max:
                raise ValueError(f"{place}: K = {largest} is beyond search.{name}.k_max = {search.k_max}")
            if not isinstance(panel, GridFigure):
                continue
            budget = panel.budget(search)
            odd = [n for n in panel.samples if budget % n]
            if odd:
                raise ValueError(f"{place}: samples {odd[0]} do not divide the budget of 2 * {panel.k} * {search.samples} = {budget} evaluations")
            if (name, method) in seen:
                raise ValueError(f"{place}: {method} on {name} stands there already")
            seen.add((name, method))
    if len({panel.budget(settings.search_on(panel.dataset, panel.method)) for panel in settings.figures.figure8}) > 1:
        raise ValueError("figures.figure8: all entries must have one budget (2 * k * search.samples), as they share a legend")


def _check_model(settings: "Config", place: str, name: str, method: str, kind: Kind) -> None:
    for part in ("datasets", "train", "search", "certify"):
        if name not in getattr(settings, part) and not (part == "train" and name in settings.checkpoints):
            raise ValueError(f"{place}: dataset {name!r} has no {part}.{name}")
    if "test" not in settings.datasets[name].images:
        raise ValueError(f"datasets.{name}.images: needs test, for {place}")
    for part in dict.fromkeys(("train", part_of(kind.trained))):
        if not settings.makes(part, name, method):
            raise ValueError(f"{place}: method {method!r} has no {part}.{name}.{method}")
