"""How a config's models are trained and their sigmas searched, in the words of a caption, and where that is not as in the paper. No torch."""

from collections.abc import Iterable, Sequence

from ddrs.experiment.config import Config
from ddrs.experiment.panels import ILLUSTRATED
from ddrs.results.captions import protocol_sentence
from ddrs.rows import ASCENT, FIGURES, FIXED, Kind, kinds_of, methods_of, spelled, title_of
from ddrs.sections import Section
from ddrs.sigma.settings import SearchSettings, StepSettings
from ddrs.training.losses import METHODS
from ddrs.training.settings import TrainSettings

EPOCHS = 200  # the paper's models on CIFAR-10, Section 4; it says nothing of ImageNet's
CLASS_SAMPLES = 100  # of `ddrs.sigma.objective.mean_class`
SAMPLES = {"macer": 8}  # n of Algorithm 1 in the paper, Section 4.3; of other methods 1


def recipe(settings: Config, dataset: str, method: str, kinds: Iterable[Kind]) -> str:
    """How rows of a method on a dataset are made, for the kinds shown: a sentence on the models, and one on each search. No full stop at the end."""
    kinds = list(kinds)
    regimes = dict.fromkeys(kind.trained for kind in kinds if kind.trained != FIXED.trained)
    searching = {(kind.strategy, kind.setting): kind for kind in kinds if kind.strategy is not None}
    searches = [_search(settings, dataset, method, kind) for kind in searching.values()]
    return ". ".join(["; ".join([_models(settings, dataset, method), *(_tuned(settings, dataset, method, regime) for regime in regimes)]), *searches])


def _models(settings: Config, dataset: str, method: str) -> str:
    architecture = settings.on(dataset, method).architecture
    if method in settings.checkpoints.get(dataset, {}):
        return f"Models: {architecture} as published by others"
    run = settings.train[dataset][method]
    epochs, loss = _epochs(run, settings.datasets[dataset].kind), _loss(run, method, settings.sigma_texts(dataset, method))
    return f"Models: {architecture}, {epochs}{loss}"


def _tuned(settings: Config, dataset: str, method: str, regime: str) -> str:
    """Training with a sigma per example, which goes on from those models."""
    run, step = settings.finetune_settings(dataset, method), settings.regime_on(dataset, method, regime)
    branched = settings.finetune[dataset][method].start == "branch"
    goes_on = f"from epoch {run.branch_epoch} of them on" if branched else f"{run.epochs} epoch{'s' * (run.epochs > 1)} more"
    if regime == "ds2":
        return f"DS2 training: {goes_on}, one sigma step of {_step(step, method)} in each"
    own = _own_settings(StepSettings, [step.at_sigma(sigma).of_regime() for sigma in settings.sigma_texts(dataset, method)])
    return f"{regime} training: {', '.join([goes_on, f'step size = {step.step_size:g}', f'n = {step.samples}', *own])}"


def _own_settings(shared: type[Section], by_sigma: Sequence[Section]) -> list[str]:
    """The settings that a plug-in does not share with the others of its folder, a list where they differ by sigma; an unset one is left out."""
    found = {name: [getattr(one, name) for one in by_sigma] for name in type(by_sigma[0]).model_fields if name not in shared.model_fields}
    return [_setting(name, values if len(set(values)) > 1 else values[:1]) for name, values in found.items() if None not in values]


def _setting(name: str, values: Iterable[float]) -> str:
    return f"{name.replace('_', ' ')} = {' / '.join(f'{one:g}' for one in values)}"


def _epochs(run: TrainSettings, kind: str) -> str:
    other = f" (the paper's on CIFAR-10: {EPOCHS})" if kind != "imagenet" and run.epochs != EPOCHS else ""
    return f"{run.epochs} epoch{'s' * (run.epochs > 1)}{other}"


def _loss(run: TrainSettings, method: str, sigmas: list[str]) -> str:
    """The settings of the loss, a list where they differ by sigma, and MACER's of the paper, which are the defaults."""
    parts, differs = [], []
    for name, value in run.loss.items():
        values = [value[sigma] for sigma in sigmas] if isinstance(value, dict) else [value]
        parts.append(_setting(name, values))
        if method == "macer":
            fields = METHODS.module(method).Settings.model_fields
            paper = next(field.default for key, field in fields.items() if (field.alias or key) == name)
            differs += [f"{name} = {paper:g}"] if set(values) != {paper} else []
    text = f", {', '.join(parts)}" if parts else ""
    return text + (f" (the paper: {', '.join(differs)})" if differs else "")


def _step(step: StepSettings, method: str) -> str:
    default = StepSettings.checked()
    size = "" if step.step_size == default.step_size else f" (the paper: {default.step_size:g})"
    return f"{step.step_size:g}{size} with {_samples(step.samples, method)}"


def _samples(n: int, method: str) -> str:
    paper = SAMPLES.get(method, 1)
    return f"n = {n}" + (f" (the paper: {paper})" if n != paper else "")


def _search(settings: Config, dataset: str, method: str, kind: Kind) -> str:
    search = settings.search_of(dataset, method, kind)
    if kind.strategy != ASCENT or kind.setting is not None:
        of_sigmas = [search.at_sigma(sigma).of_strategy() for sigma in settings.sigma_texts(dataset, method)]
        own = [one for one in _own_settings(SearchSettings, of_sigmas) if not one.startswith(f"{kind.knob} = ")]
        numbers = " / ".join(map(spelled, settings.numbers(dataset, kind) if kind.setting else [search.k_max]))
        return f"Search by {kind.strategy}: {', '.join([f'{kind.knob} = {numbers}', f'n = {search.samples}', *own])}"
    fixed = f", the class fixed at the start by {CLASS_SAMPLES} samples (Equation 3; Algorithm 1 picks it again in each step)"
    return f"Search: up to K = {search.k_max} steps of {_step(search, method)}{fixed if search.objective_class == 'fixed' else ''}"


def about(settings: Config) -> str:
    """What the experiment of a config reproduces, and at what scale: per dataset a paragraph and a list of its tables, as reStructuredText."""
    parts = [_shown(settings, dataset) for dataset in settings.datasets]
    numbers = [str(number) for number in shown_figures(settings)]
    return "\n\n".join([*filter(None, parts), f"Figures: {', '.join(numbers)}."])


def _shown(settings: Config, dataset: str) -> str:
    parts = []
    for table, names in settings.tables.items():
        for method in methods_of(table) if dataset in names else ():
            symbol = "lambda" if METHODS.module(method).NOISE == "uniform" else "sigma"
            sigmas = ", ".join(settings.sigma_texts(dataset, method))
            parts.append(f"- {title_of(table)}: {method} at {symbol} {sigmas}. {recipe(settings, dataset, method, kinds_of(table, method))}.")
    if not parts:
        return ""
    images, certify = settings.datasets[dataset].images, settings.certify[dataset]
    by_split = {split: certify.sampling(count, [0.0], split) for split, count in images.items()}
    facts = {**by_split["test"].model_dump(), "split": "test", "images": images["test"], "n_max": by_split["test"].n, "noise": certify.noise}
    chosen = "every second test image, the others being reported"
    if "validation" in images:
        chosen = f"{images['validation']} validation images at n = {by_split['validation'].n:,}"
    once = f"sigma and K chosen once on the test images, as in the paper, and once on {chosen}"
    return "\n".join([f"On {dataset}, certified on {protocol_sentence(facts)}; {once}.", "", *parts])


def shown_figures(settings: Config) -> list[int]:
    """The numbers of the figures that a config has something for: illustrations are of no dataset."""
    of_tables = [int(number) for number, table in FIGURES.items() if settings.tables.get(table)]
    of_panels = [int(name.removeprefix("figure")) for name, panels in settings.figures if panels]
    return sorted([*map(int, ILLUSTRATED), *of_tables, *of_panels])
