"""The figures section: what it allows, the budget that its grids share, and what each mistake says."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from ddrs.errors import DdrsError
from ddrs.experiment.load import load
from ddrs.experiment.panels import FiguresSettings

ROOT = Path(__file__).parents[3]
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
PANEL = {"dataset": "mnist5k", "method": "smoothadv", "row": "ds", "sigma": 0.5, "k": [0, 300]}
GRID = {"dataset": "mnist5k", "method": "smoothadv", "k": 100, "samples": [1, 2, 4, 10]}
EXAMPLES = {"dataset": "mnist5k", "method": "smoothadv", "sigma": 0.5, "k": 300, "quantiles": [0.0, 1.0]}


def with_figures(**figures: object) -> dict:
    return {**deepcopy(SHIPPED), "figures": figures}


def test_the_shipped_figures_are_the_papers():
    figures = load(SHIPPED).figures
    assert [(p.method, p.row) for p in figures.figure7[:2]] == [("smoothadv", "ds2"), ("smoothadv", "ds")], "the paper's panels come first"
    assert {(p.method, p.row) for p in figures.figure7} == {(m, r) for m in ("smoothadv", "cohen", "macer") for r in ("ds", "ds2")} | {("yang", "ds")}
    assert all(p.k[0] == 0 and len(p.k) >= 3 for p in figures.figure7)
    (grid,) = figures.figure8
    assert (grid.method, grid.k, grid.samples) == ("smoothadv", 100, [1, 2, 4, 10])
    assert [p.sigma for p in figures.figure6] == [0.5, 0.25] and len(figures.figure9) == 2


def test_no_figures_is_allowed_and_shows_none():
    assert load({key: value for key, value in SHIPPED.items() if key != "figures"}).figures == FiguresSettings.checked()


@pytest.mark.parametrize(("k", "steps", "samples", "points"), [(100, 1, [1, 2, 4, 10], [200, 100, 50, 20]), (30, 4, [3, 8], [80, 30])])
def test_every_grid_spends_the_budget_of_the_ascent(k: int, steps: int, samples: list[int], points: list[int]):
    raw = with_figures(figure8=[{**GRID, "k": k, "samples": samples}])
    raw["search"]["mnist5k"]["samples"] = steps
    settings = load(raw)
    (panel,), search = settings.figures.figure8, settings.search_on("mnist5k", "smoothadv")
    grids = panel.grids(search)
    assert list(grids) == points and [own.samples for own in grids.values()] == samples
    for count, own in grids.items():
        assert (own.strategy, own.k_max, own.k_max * own.samples) == ("grid", count, 2 * k * steps)
        assert (own.objective_class, own.sigma_min, own.sigma_max, own.batch_size) == (
            search.objective_class,
            search.sigma_min,
            search.sigma_max,
            search.batch_size,
        )


def test_a_grid_does_not_depend_on_the_step_size():
    raw = with_figures(figure8=[GRID])
    raw["search"]["mnist5k"]["step_size"] = 0.5
    settings, shipped = load(raw), load(SHIPPED)
    assert settings.search != shipped.search
    grids = [one.figures.figure8[0].grids(one.search_on("mnist5k", "smoothadv")) for one in (settings, shipped)]
    assert grids[0] == grids[1]


def test_a_grid_has_the_budget_of_its_own_method():
    raw = with_figures(figure8=[{**GRID, "samples": [1, 3]}])
    raw["search"]["mnist5k"]["methods"] = {"smoothadv": {"samples": 3}}
    settings = load(raw)
    assert list(settings.figures.figure8[0].grids(settings.search_on("mnist5k", "smoothadv"))) == [600, 200]


MISTAKES = [
    ({"figure10": []}, ["unknown key 'figure10'", "allowed are figure6, figure7, figure8, figure9"]),
    ({"figure7": [{**PANEL, "dataset": "mnist"}]}, ["figures.figure7.0: dataset 'mnist' has no datasets.mnist"]),
    ({"figure7": [PANEL, {**PANEL, "sigma": 0.33}]}, ["figures.figure7.1: sigma 0.33 is none of smoothadv on mnist5k: [0.25, 0.5, 1.0]"]),
    ({"figure7": [{**PANEL, "k": [0, 1501]}]}, ["figures.figure7.0: K = 1501 is beyond search.mnist5k.k_max = 1500"]),
    ({"figure7": [{**PANEL, "k": [300, 0]}]}, ["figures.figure7.0.k: must be increasing"]),
    ({"figure7": [{**PANEL, "k": [-1]}]}, ["figures.figure7.0.k.0", "greater than or equal to 0"]),
    ({"figure7": [{**PANEL, "method": "yang", "row": "ds2"}]}, ["figures.figure7.0: method 'yang' has no finetune.mnist5k.yang"]),
    ({"figure7": [{**PANEL, "row": "gds"}]}, ["figures.figure7.0.row", "'ds' or 'ds2'"]),
    ({"figure8": [{**GRID, "samples": [1, 3]}]}, ["figures.figure8.0: samples 3 do not divide the budget of 2 * 100 * 1 = 200 evaluations"]),
    ({"figure8": [GRID, GRID]}, ["figures.figure8.1: smoothadv on mnist5k stands there already"]),
    ({"figure8": [GRID, {**GRID, "method": "cohen", "k": 50}]}, ["figures.figure8: all entries must have one budget"]),
    ({"figure8": [{**GRID, "k": 1501}]}, ["figures.figure8.0: K = 1501 is beyond"]),
    ({"figure6": [{**EXAMPLES, "quantiles": [0.5, 1.5]}]}, ["figures.figure6.0.quantiles.1", "less than or equal to 1"]),
    ({"figure6": [{**EXAMPLES, "quantiles": []}]}, ["figures.figure6.0.quantiles", "at least 1 item"]),
    ({"figure9": [{**EXAMPLES, "k": 0}]}, ["figures.figure9.0.k", "greater than or equal to 1"]),
]


@pytest.mark.parametrize(("figures", "parts"), MISTAKES, ids=[parts[0][:40] for _, parts in MISTAKES])
def test_a_mistake_is_one_line_with_its_place(figures: dict, parts: list[str]):
    with pytest.raises(DdrsError) as error:
        load(with_figures(**figures))
    assert "\n" not in str(error.value) and [part for part in parts if part not in str(error.value)] == [], str(error.value)


def test_the_rows_of_tables_stand_on_algorithm_1():
    raw = with_figures()
    raw["search"]["mnist5k"]["strategy"] = "grid"
    with pytest.raises(DdrsError, match=r"search\.mnist5k\.strategy: must be ascent"):
        load(raw)
