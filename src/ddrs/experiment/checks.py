"""What must hold between the parts of a config, which no part sees alone. No torch."""

from collections.abc import Iterator

from ddrs.errors import DdrsError, nearest
from ddrs.experiment.config import Config
from ddrs.experiment.panels import GridFigure, StepsPanel
from ddrs.models.formats import preprocessing_of, published
from ddrs.rows import FIXED, KINDS, TABLES, Kind, Run, kinds_of, label_of, methods_of, read_logged
from ddrs.training.losses import METHODS
from ddrs.training.settings import TrainSettings


def check_parts(settings: Config) -> None:
    """ValueError that names the first key which does not fit the others; `checkpoints` and `figures` have checks of their own."""
    _check_tables(settings)
    _check_names(settings)
    _check_searches(settings)
    _check_certificates(settings)
    _check_finetuning(settings)
    _check_losses(settings)
    _check_plugins(settings)
    _check_precisions(settings)


def _check_tables(settings: Config) -> None:
    for table, names in settings.tables.items():
        for row in TABLES[table] if names else ():
            if (row.kind.knob is None) != (row.kind.strategy is None):
                raise ValueError(f"tables.{table}: row {row.label!r}: its kind must have both a strategy and a knob, or neither")
        for name in names:
            if name not in settings.datasets:
                close = nearest(name, settings.datasets)
                raise ValueError(f"tables.{table}: unknown dataset {name!r}{close}: dataset {name!r} has no datasets.{name}")
            images = settings.datasets[name].images
            if images.get("test", 0) < (1 if "validation" in images else 2):
                ways = "" if "validation" in images else ", and 2 or more of them without validation, as every second chooses sigma and K"
                raise ValueError(f"datasets.{name}.images: needs test, for tables.{table}{ways}")
            for part in ("train", "finetune", "search", "certify"):
                if name not in getattr(settings, part) and not (part == "train" and name in settings.checkpoints):
                    raise ValueError(f"tables.{table}: dataset {name!r} has no {part}.{name}")
            for method in methods_of(table):
                for part in dict.fromkeys(("train", *(part_of(kind.trained) for kind in kinds_of(table, method)))):
                    if not settings.makes(part, name, method):
                        raise ValueError(f"tables.{table}: method {method!r} has no {part}.{name}.{method}")
                for kind in kinds_of(table, method):
                    if kind.setting is not None and kind.setting not in settings.search[name].strategies.get(str(kind.strategy), {}):
                        row, place = label_of(method, kind), f"search.{name}.strategies.{kind.strategy}.{kind.setting}"
                        raise ValueError(f"tables.{table}: row {row!r} needs {place}, which is its {kind.knob}")
        noises = {method: METHODS.module(method).NOISE for method in methods_of(table)} if names else {}
        if len(set(noises.values())) > 1:
            said = ", ".join(f"{method} {noise}" for method, noise in noises.items())
            raise ValueError(f"tables.{table}: its methods train with noise of different norms, which one table cannot show: {said}")


def part_of(trained: str) -> str:
    """The part of a config that says how the models of a kind of row are made; those of `finetune` start from those of `train`."""
    return "train" if trained == FIXED.trained else "finetune"


def _check_names(settings: Config) -> None:
    for part in ("train", "checkpoints", "finetune", "search", "certify"):
        for name in getattr(settings, part):
            if name not in settings.datasets:
                raise ValueError(f"{part}: unknown dataset {name!r}{nearest(name, settings.datasets)}; known are {', '.join(settings.datasets)}")


def _check_searches(settings: Config) -> None:
    kinds = [kind for kind in KINDS.values() if kind.trajectory]
    strategies, rows = dict.fromkeys(str(kind.strategy) for kind in kinds), " and ".join(kind.name for kind in kinds)
    for name, search in settings.search.items():
        if search.strategy not in strategies:
            allowed = " or ".join(strategies)
            raise ValueError(f"search.{name}.strategy: must be {allowed}, on which rows {rows} stand; grids are those of figures.figure8")
        for place, sigma in _starts(settings, name):
            if not search.sigma_min <= sigma <= search.sigma_max:
                raise ValueError(f"{place}: {sigma} is outside search.{name}'s [{search.sigma_min}, {search.sigma_max}]")
        for strategy, values in search.strategies.items():
            numbers = {kind.setting for kind in KINDS.values() if kind.strategy == strategy}
            for setting in (setting for setting, value in values.items() if isinstance(value, list) and setting not in numbers):
                raise ValueError(f"search.{name}.strategies.{strategy}.{setting}: must be one number, as it is the second number of no row")


def _starts(settings: Config, dataset: str) -> list[tuple[str, float]]:
    """Every sigma that a search on the dataset may start from, each with its place in the config."""
    sigmas, of_uniform = settings.datasets[dataset].sigmas, settings.datasets[dataset].uniform.sigmas or []
    place = f"datasets.{dataset}"
    return [(f"{place}.sigmas", one) for one in sigmas] + [(f"{place}.uniform.sigmas", one) for one in of_uniform]


def _check_certificates(settings: Config) -> None:
    for name, certify in settings.certify.items():
        if name in settings.search and max(certify.k) > settings.search[name].k_max:
            raise ValueError(f"certify.{name}.k: {max(certify.k)} is beyond search.{name}.k_max = {settings.search[name].k_max}")
        for split, images in settings.datasets[name].images.items():
            if certify.shards > images:
                raise ValueError(f"certify.{name}.shards: {certify.shards} is above the {images} images of a split")
            try:
                certify.sampling(images, settings.datasets[name].radii, split)
            except ValueError as error:
                raise ValueError(f"certify.{name}: {error}") from None


def _check_finetuning(settings: Config) -> None:
    for name, methods in settings.finetune.items():
        for method, tuned in methods.items():
            run = settings.train.get(name, {}).get(method)
            if tuned.start == "branch" and run is not None and (run.branch_epoch is None or run.branch_epoch >= run.epochs):
                raise ValueError(f"finetune.{name}.{method}: start: branch needs train.{name}.{method}.branch_epoch below its epochs = {run.epochs}")
            for sigma in settings.on(name, method).sigmas:
                if not tuned.step.sigma_min <= sigma <= tuned.step.sigma_max:
                    allowed = f"[{tuned.step.sigma_min}, {tuned.step.sigma_max}]"
                    raise ValueError(f"datasets.{name}: sigma {sigma} is outside finetune.{name}.{method}.step's {allowed}")


def _check_losses(settings: Config) -> None:
    for part, name, method, run in _runs(settings):
        for sigma in settings.sigma_texts(name, method):
            try:
                run.at_sigma(sigma).loss_settings(method)
            except DdrsError as error:
                raise ValueError(f"{part}.{name}.{method}.{error}") from None


def _check_plugins(settings: Config) -> None:
    """The settings of the strategies, regimes and certificates that the tables' rows stand on, or that the config has something for."""
    for name, method in sorted({(name, method) for _, name, method, _ in _runs(settings)}):
        shown = [kind for table, names in settings.tables.items() if name in names for kind in kinds_of(table, method)]
        tuned = settings.finetune.get(name, {}).get(method)
        strategies = settings.search[name].strategies if name in settings.search else {}
        certificates = settings.certify[name].certificates if name in settings.certify else {}
        regimes = {kind.trained for kind in shown if kind.trained != "fs"} | tuned.regimes.keys() if tuned else set()
        kinds = [kind for kind in KINDS.values() if kind in shown or kind.strategy in strategies or kind.certificate in certificates]
        kinds = [kind for kind in kinds if kind.setting is None or name in settings.search]
        place = ""
        try:
            for sigma in settings.sigma_texts(name, method):
                place = f"search.{name}.strategies"
                runs = [(kind, number) for kind in kinds for number in (settings.numbers(name, kind) if kind.setting else [None])]
                for kind, number in runs:
                    read_logged(Run.at(kind, sigma, number).logged if number is not None else "")
                    if kind.strategy is not None and name in settings.search:
                        settings.search_of(name, method, kind, number).at_sigma(sigma).of_strategy()
                for strategy in strategies.keys() - {kind.strategy for kind in kinds}:
                    settings.search_on(name, method, strategy).at_sigma(sigma).of_strategy()
                place = f"finetune.{name}.{method}.regimes"
                for regime in sorted(regimes):
                    settings.regime_on(name, method, regime).at_sigma(sigma).of_regime()
                place = f"certify.{name}.certificates"
                asked = [(kind.certificate, kind.knob, number) for kind, number in runs] + [
                    (one, None, None) for one in certificates.keys() - {kind.certificate for kind in kinds}
                ]
                for one, knob, number in asked if name in settings.certify else []:
                    sampling = settings.certify[name].sampling(1, settings.on(name, method).radii, certificate=one)
                    sampling.at_sigma(sigma).at_knob(knob, number).of_certificate()
        except DdrsError as error:
            raise ValueError(f"{place}: {error}") from None


def _check_precisions(settings: Config) -> None:
    places = [(f"{part}.{name}.{method}{'.train' * (part == 'finetune')}", run) for part, name, method, run in _runs(settings)]
    for place, stated in [*places, *((f"certify.{name}", certify) for name, certify in settings.certify.items())]:
        if settings.device == "cpu" and stated.precision.startswith("tf32"):
            raise ValueError(f"{place}.precision: {stated.precision} needs device: cuda")


def _runs(settings: Config) -> Iterator[tuple[str, str, str, TrainSettings]]:
    """Every training run that the config states: part, dataset, method and settings."""
    for name, methods in settings.train.items():
        yield from (("train", name, method, run) for method, run in methods.items())
    for name, tuned in settings.finetune.items():
        yield from (("finetune", name, method, finetune.train) for method, finetune in tuned.items() if finetune.train is not None)


def check_checkpoints(settings: Config) -> None:
    """ValueError unless each published model is one that its format has, has a file for each sigma, and is used for what it allows."""
    for name, methods in settings.checkpoints.items():
        if "validation" in settings.datasets[name].images:
            raise ValueError(
                f"checkpoints.{name}: its models saw all training images, so none are left to choose on: "
                f"datasets.{name}.images must not have validation; selected tables then choose on every second test image"
            )
        for method, checkpoint in methods.items():
            place = f"checkpoints.{name}.{method}"
            try:
                preprocessing_of(checkpoint.format, settings.datasets[name].kind, checkpoint.preprocessing)
            except DdrsError as error:
                raise ValueError(f"{place}: {error}") from None
            if METHODS.module(method).NOISE != "gaussian":
                raise ValueError(f"{place}: models of format {checkpoint.format} were trained with gaussian noise, {method} is of another")
            paths = {sigma: checkpoint.path(sigma) for sigma in settings.sigma_texts(name, method)}
            missing = [sigma for sigma, path in paths.items() if not path]
            if missing:
                raise ValueError(f"{place}.file: has no path for sigma {missing[0]}")
            if len(set(paths.values())) < len(paths):
                raise ValueError(f"{place}.file: must have {{sigma}} in it, or be a mapping, as sigmas {', '.join(paths)} are different models")
            odd = [path for path in paths.values() if "{" in path or "}" in path]
            if odd:
                raise ValueError(f"{place}.file: {odd[0]!r} has braces; only {{sigma}} is filled in")
            tuned = settings.finetune.get(name, {}).get(method)
            if tuned is not None and tuned.start == "branch":
                raise ValueError(
                    f"finetune.{name}.{method}: start: branch needs a run to branch from; the models of {place} are finished: say start: trained"
                )
        _check_architecture(settings, name)


def _check_architecture(settings: Config, name: str) -> None:
    """ValueError if all models that a dataset's `architecture` is of are published ones, and of another. Beside trained ones it is of those."""
    dataset_settings, methods = settings.datasets[name], settings.checkpoints[name]
    trained = [method for method in settings.train.get(name, {}) if method not in methods]
    if any(dataset_settings.uniform.architecture is None or METHODS.module(method).NOISE == "gaussian" for method in trained):
        return
    known = sorted({published(one.format, dataset_settings.kind).architecture for one in methods.values()})
    if known and dataset_settings.architecture not in known:
        raise ValueError(
            f"datasets.{name}.architecture: {dataset_settings.architecture}, but the models of checkpoints.{name} are of {' and '.join(known)}"
        )


def check_figures(settings: Config) -> None:
    """ValueError unless the figures show what the config has: datasets, trained methods, sigmas, and K within the search."""
    seen = set()
    for figure, panels in settings.figures:
        for i, panel in enumerate(panels):
            name, method, place = panel.dataset, panel.method, f"figures.{figure}.{i}"
            _check_model(settings, place, name, method, KINDS[panel.row] if isinstance(panel, StepsPanel) else FIXED)
            dataset_settings, search = settings.on(name, method), settings.search_on(name, method)
            if not isinstance(panel, GridFigure) and panel.sigma not in dataset_settings.sigmas:
                raise ValueError(f"{place}: sigma {panel.sigma} is none of {method} on {name}: {dataset_settings.sigmas}")
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


def _check_model(settings: Config, place: str, name: str, method: str, kind: Kind) -> None:
    for part in ("datasets", "train", "search", "certify"):
        if name not in getattr(settings, part) and not (part == "train" and name in settings.checkpoints):
            raise ValueError(f"{place}: dataset {name!r} has no {part}.{name}")
    if "test" not in settings.datasets[name].images:
        raise ValueError(f"datasets.{name}.images: needs test, for {place}")
    for part in dict.fromkeys(("train", part_of(kind.trained))):
        if not settings.makes(part, name, method):
            raise ValueError(f"{place}: method {method!r} has no {part}.{name}.{method}")
