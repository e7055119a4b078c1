"""The experiment's settings as one pydantic model: it checks config.yaml, makes its JSON schema and is the verbs' flags.

Importing this loads no torch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ddrs.certification.bounds import check_n
from ddrs.certification.certificates import CERTIFICATES
from ddrs.checkpoint_config import CheckpointSettings, check_checkpoints
from ddrs.config_checks import check_parts
from ddrs.dataset_config import DatasetSettings, with_kinds
from ddrs.errors import DdrsError
from ddrs.figure_config import FiguresSettings, check_figures
from ddrs.names import Dataset, Method, Table
from ddrs.sections import COUNT_MAX, BatchSize, Count, Increasing, Section, Seed, known_name, later, one_line, own_settings, two_decimals
from ddrs.sigma.strategies import STRATEGIES
from ddrs.training.losses import METHODS, LossSettings
from ddrs.training.regimes import REGIMES

Precision = Literal["float32", "tf32", "bfloat16", "float16", "float32-compiled", "tf32-compiled", "bfloat16-compiled", "float16-compiled"]
PRECISIONS = get_args(Precision)
Strategy = Annotated[str, known_name("strategy", STRATEGIES)]
Regime = Annotated[str, known_name("regime", REGIMES)]
Certificate = Annotated[str, known_name("certificate", CERTIFICATES)]


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


def _at_sigma(part: str, values: PluginValues, sigma: str) -> PluginValues:
    """The values with each mapping replaced by its value at one sigma (two decimals)."""
    picked: PluginValues = {}
    for name, value in values.items():
        if isinstance(value, dict) and sigma not in value:
            raise DdrsError(f"{part}: {name} has no value for sigma {sigma}; it has {', '.join(value)}")
        picked[name] = value[sigma] if isinstance(value, dict) else value
    return picked


class TrainSettings(Section):
    """One training run."""

    epochs: Count = Field(description="passes over the training images")
    batch_size: BatchSize = Field(128, description="images per step")
    optimizer: Literal["sgd", "nesterov", "adam"] = Field("sgd", description="sgd (with momentum), nesterov (sgd with Nesterov's) or adam")
    learning_rate: float = Field(0.01, gt=0, description="initial learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd and nesterov")
    weight_decay: float = Field(0.0005, ge=0, description="weight decay")
    schedule: Literal["constant", "step", "multistep", "cosine"] = Field("step", description="learning rate over the epochs")
    milestones: Annotated[list[Count], Increasing] = Field(
        [30], min_length=1, description="step: one period in epochs; multistep: the epochs of the drops"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each drop")
    augment: Literal["none", "flip", "crop-flip"] = Field("none", description="crop is random, padded by 4")
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = Field("float32", description="of the forward passes; weights stay float32")
    branch_epoch: Count | None = Field(None, description="epoch after which the branch state is saved; default: the last")
    loss: PluginValues = Field({}, description="settings of the method's loss; a mapping gives a value per sigma")

    @model_validator(mode="after")
    def _branch_within(self) -> Self:
        if self.branch_epoch is not None and self.branch_epoch > self.epochs:
            raise ValueError(f"branch_epoch = {self.branch_epoch} is beyond epochs = {self.epochs}")
        return self

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.optimizer == "nesterov" and not self.momentum:
            raise ValueError("optimizer: nesterov needs a momentum above 0")
        return self

    @model_validator(mode="after")
    def _step_has_one_period(self) -> Self:
        if self.schedule == "step" and len(self.milestones) > 1:
            raise ValueError(f"milestones = {self.milestones}: schedule: step takes one, its period; schedule: multistep takes several")
        return self

    def unread(self) -> frozenset[str]:
        """The steps of a schedule that has none."""
        return frozenset(("milestones", "gamma") if self.schedule in ("constant", "cosine") else ())

    def at_sigma(self, sigma: str) -> Self:
        """The same settings with the loss's mappings replaced by their value at one sigma (two decimals)."""
        return self.model_copy(update={"loss": _at_sigma("loss", self.loss, sigma)})

    def loss_settings(self, method: str) -> LossSettings:
        """The loss's own settings, checked by the method's model."""
        return own_settings("loss", method, METHODS.module(method).Settings, self.loss, {})


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


class RegimeSettings(StepSettings):
    """How an example gets its sigma in training that goes on from a fixed-sigma model."""

    regime: Regime = later("ds2", description="how examples get a sigma; ds2: one ascent step before each batch (Algorithm 2)")
    set: PluginValues = later({}, description="settings of the regime's own")

    def at_sigma(self, sigma: str) -> Self:
        """The same settings with the mappings of `set` replaced by their value at one sigma (two decimals)."""
        return self.model_copy(update={"set": _at_sigma(self.regime, self.set, sigma)})

    def of_regime(self) -> StepSettings:
        """The settings as the regime's own model has them."""
        shared = {name: getattr(self, name) for name in StepSettings.model_fields}
        return own_settings("regime", self.regime, REGIMES.module(self.regime).Settings, self.set, shared)


class FinetuneSettings(Section):
    """How DS2 training (Algorithm 2) starts, and its length if it does not end a branched run."""

    start: Literal["trained", "branch"] = Field(description="trained: from the finished model; branch: from the training run's branch_epoch on")
    train: TrainSettings | None = Field(None, description="the run that follows a trained model")
    step: StepSettings = Field(default_factory=StepSettings.checked, description="the one ascent step before each batch")
    regimes: dict[Regime, PluginValues] = Field({}, description="what another regime than ds2 has for settings, of its own and in place of step's")

    @model_validator(mode="after")
    def _train_given(self) -> Self:
        if (self.start == "trained") != (self.train is not None):
            raise ValueError("train is needed with start: trained, and not allowed with start: branch, which ends the training run")
        if self.train is not None and self.train.branch_epoch is not None:
            raise ValueError("train.branch_epoch: no run continues one of DS2 training, so it must be null")
        return self


class SearchSettings(StepSettings):
    """The sigma search."""

    strategy: Strategy = Field(
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
        return self.model_copy(update={"set": _at_sigma(self.strategy, self.set, sigma)})

    def of_strategy(self) -> "SearchSettings":
        """The settings as the strategy's own model has them."""
        shared = {**{name: getattr(self, name) for name in SearchSettings.model_fields}, "set": {}}
        return own_settings("strategy", self.strategy, STRATEGIES.module(self.strategy).Settings, self.set, shared)


class MethodSearch(Section):
    """What differs in the sigma search for one method."""

    samples: Count | None = Field(None, description="noise samples per step (the paper's n)")


class DatasetSearch(SearchSettings):
    """The sigma search on a dataset."""

    methods: dict[Method, MethodSearch] = Field({}, description="what differs for a method")
    strategies: dict[Strategy, PluginValues] = Field({}, description="what another strategy has for settings, of its own and in place of these")


class Sampling(Section):
    """How an image's votes are drawn and what is concluded from them."""

    n0: Count = Field(100, description="samples that pick the class (two-stage: and n)")
    n: Count = Field(100_000, description="fresh samples that estimate its probability (sequential, two-stage: at most)")
    protocol: Literal["fixed", "sequential", "two-stage"] = Field(
        "fixed", description="fixed: n samples (Cohen et al.); sequential: as many as the radii need; two-stage: as many as the pilot plans"
    )
    bound: Literal["binary", "joint"] = Field("binary", description="binary: p_B = 1 - p_A; joint: a bound of its own for the runner-up")
    noise: Literal["gaussian", "uniform", "lattice"] | None = Field(
        None, description="lattice: the model's noise on the 1/255 pixel grid, sound in floating point; default: as the model was trained"
    )
    precision: Precision = Field("float32", description="of the forward pass; -compiled: through torch.compile")
    spending: Literal["sqrt", "log"] = Field("sqrt", description="sequential: how alpha is spent over the looks")
    radius_loss: float = Field(0.02, ge=0, description="two-stage: what a smaller n may cost in radius, in units of sigma")

    @model_validator(mode="after")
    def _bound_of_protocol(self) -> Self:
        if self.bound == "joint" and self.protocol == "sequential":
            raise ValueError("bound: joint is for protocols fixed and two-stage; sequential tests one class against p0")
        return self


class SampleSettings(Sampling):
    """The certificate of one image."""

    alpha: float = Field(0.001, gt=0, lt=1, description="failure probability per image, in each log")
    radii: Annotated[list[Annotated[float, Field(ge=0)]], Increasing] = Field([], description="sequential: the radii that are asked for, increasing")
    certificate: Certificate = later("smoothing", description="what is concluded from the votes; smoothing: Cohen et al. (2019)")
    set: PluginValues = later({}, description="settings of the certificate's own")

    def at_sigma(self, sigma: str) -> Self:
        """The same settings with the mappings of `set` replaced by their value at one sigma (two decimals)."""
        return self.model_copy(update={"set": _at_sigma(self.certificate, self.set, sigma)})

    def of_certificate(self) -> Section:
        """The certificate's own settings, checked by its model."""
        return own_settings("certificate", self.certificate, CERTIFICATES.module(self.certificate).Settings, self.set, {})

    @model_validator(mode="after")
    def _n_can_certify(self) -> Self:
        check_n(self.n, self.alpha / 2 if self.bound == "joint" else self.alpha)
        if self.protocol == "sequential" and not self.radii:
            raise ValueError("protocol sequential: needs radii, the increasing list of radii that are asked for")
        return self


class TotalAlpha(Section):
    """A failure probability for all certified images of one log (a model, sigma and K on a split) together: each image gets an equal share."""

    total: float = Field(gt=0, lt=1, description="of each log: divided by the number of its images, not among the logs that a table reads")


def _alpha(value: Any) -> Any:
    if not isinstance(value, Mapping | TotalAlpha) and not (isinstance(value, int | float) and 0 < value < 1):
        raise ValueError("must be a number between 0 and 1, or {total: NUMBER} for all images of a log together")
    return value


class CertifySettings(Sampling):
    """Certification of a dataset's images."""

    alpha: Annotated[float | TotalAlpha, BeforeValidator(_alpha)] = Field(
        0.001, description="failure probability per image, or {total: ...} for all images together; in either case of each log by itself"
    )
    n_validation: Count | None = Field(None, description="n of the validation images, which only choose sigma and K; default: n")
    k: Annotated[list[Count], Increasing] = Field(min_length=1, description="the K (search steps) that are certified; at most search.k_max")
    shards: Count = Field(
        1, description="jobs that the certificate of one row at one sigma and K is split into; another number certifies again, to the same bytes"
    )
    certificates: dict[Certificate, PluginValues] = Field({}, description="what another certificate than smoothing has for settings of its own")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for split in () if isinstance(self.alpha, TotalAlpha) else ("test", "validation"):
            self.sampling(1, [0.0], split)
        return self

    def sampling(self, images: int, radii: list[float], split: str = "test", certificate: str = "smoothing") -> SampleSettings:
        """What the certificate of each of a split's `images` images is made with; radii are those of the tables, for protocol sequential.

        alpha: of one image in one log; a total is divided by `images`.
        """
        alpha = self.alpha.total / images if isinstance(self.alpha, TotalAlpha) else self.alpha
        unread = {"fixed": ("spending", "radius_loss"), "sequential": ("radius_loss",), "two-stage": ("spending",)}[self.protocol]
        shared = {name: getattr(self, name) for name in Sampling.model_fields if name not in unread}  # so that these trigger nothing
        if split == "validation" and self.n_validation is not None:
            shared["n"] = self.n_validation
        try:
            own = {"certificate": certificate, "set": self.certificates.get(certificate, {})}
            return SampleSettings(**shared, **own, alpha=alpha, radii=radii if self.protocol == "sequential" else [])
        except ValidationError as error:
            raise ValueError(one_line(error)) from None


class Config(Section):
    """config.yaml."""

    seed: Seed = Field(0, description="seed of everything random")
    device: str = Field("cpu", pattern=r"^(cpu|cuda)$", description="cpu, or cuda: one GPU per job")
    tables: dict[Table, list[Dataset]] = Field(description="datasets that each table shows; Figures 3, 4 and 5 follow Tables 1, 2 and 3")
    figures: FiguresSettings = Field(default_factory=FiguresSettings.checked, description="what Figures 6 to 9 show")
    datasets: Annotated[dict[Dataset, DatasetSettings], BeforeValidator(with_kinds)]
    train: dict[Dataset, dict[Method, TrainSettings]] = Field(description="fixed-sigma training, by dataset and method")
    checkpoints: dict[Dataset, dict[Method, CheckpointSettings]] = Field({}, description="published models, used in place of training")
    finetune: dict[Dataset, dict[Method, FinetuneSettings]] = Field(description="DS2 training, by dataset and method")
    search: dict[Dataset, DatasetSearch]
    certify: dict[Dataset, CertifySettings]

    def makes(self, part: str, dataset: str, method: str) -> bool:
        """Whether `train` or `finetune` makes a method's models on a dataset; published ones stand in for `train`."""
        return method in getattr(self, part).get(dataset, {}) or (part == "train" and method in self.checkpoints.get(dataset, {}))

    def on(self, dataset: str, method: str) -> DatasetSettings:
        """A dataset's settings as they are for a method: what `uniform` says stands in where the method's noise is uniform."""
        own = self.datasets[dataset]
        uniform = METHODS.module(method).NOISE == "uniform"
        return own.model_copy(update=own.uniform.model_dump(exclude_none=True)) if uniform else own

    def search_on(self, dataset: str, method: str, strategy: str | None = None) -> SearchSettings:
        """The search on a dataset as it is for a method, and for a strategy (default: the dataset's)."""
        own = self.search[dataset]
        differs: dict[str, Any] = own.methods[method].model_dump(exclude_none=True) if method in own.methods else {}
        if strategy not in (None, own.strategy):
            differs |= {"strategy": strategy, **_parts(SearchSettings, own.strategies.get(strategy, {}))}
        return SearchSettings.checked(**{**own.model_dump(exclude={"methods", "strategies"}), **differs})

    def regime_on(self, dataset: str, method: str, regime: str = "ds2") -> RegimeSettings:
        """How examples get their sigma in the training of a method on a dataset that goes on from fixed-sigma models."""
        own = self.finetune[dataset][method]
        return RegimeSettings.checked(**{**own.step.model_dump(), "regime": regime, **_parts(StepSettings, own.regimes.get(regime, {}))})

    def sigma_texts(self, dataset: str, method: str) -> list[str]:
        """A method's sigmas on a dataset as they stand in paths."""
        return [f"{sigma:.2f}" for sigma in self.on(dataset, method).sigmas] if dataset in self.datasets else []

    def finetune_settings(self, dataset: str, method: str) -> TrainSettings:
        """The run that DS2 training is: its own, or the rest of the branched one."""
        own = self.finetune[dataset][method].train
        return own if own is not None else self.train[dataset][method]


def _parts(shared: type[Section], values: PluginValues) -> dict[str, Any]:
    """Settings of a plug-in: those that it shares with others, by name, and its own as `set`."""
    own = {name: value for name, value in values.items() if name not in shared.model_fields}
    return {**{name: value for name, value in values.items() if name not in own}, "set": own}


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


def json_schema() -> str:
    """The JSON schema of config.yaml; workflow/schemas/config.schema.json holds it for editors."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def write_json_schema(path: Path) -> None:
    """Write the JSON schema."""
    Path(path).write_text(json_schema(), encoding="utf-8")
