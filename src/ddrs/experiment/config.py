"""The experiment's settings as one pydantic model: it checks config.yaml, makes its JSON schema and is the verbs' flags.

Importing this loads no torch.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ddrs.certification.settings import CertificateName, ImageCertificateSettings, VoteSettings
from ddrs.errors import DdrsError
from ddrs.experiment.checkpoints import CheckpointSettings
from ddrs.experiment.datasets import DatasetSettings, with_kinds
from ddrs.experiment.names import DatasetName, MethodName, TableName
from ddrs.experiment.panels import FiguresSettings
from ddrs.rows import STEPS, Kind
from ddrs.sections import Count, Increasing, ListedValues, PluginValues, Section, Seed, SplitName, one_line
from ddrs.sigma.settings import SearchSettings, StepSettings, StrategyName
from ddrs.training.losses import METHODS
from ddrs.training.settings import RegimeName, RegimeSettings, TrainSettings


class FinetuneSettings(Section):
    """How training with a sigma per example (DS2: Algorithm 2) starts, and its length if it does not end a branched run."""

    start: Literal["trained", "branch"] = Field(description="trained: from the finished model; branch: from the training run's branch_epoch on")
    train: TrainSettings | None = Field(None, description="the run that follows a trained model")
    step: StepSettings = Field(default_factory=StepSettings.checked, description="the one ascent step before each batch")
    regimes: dict[RegimeName, PluginValues] = Field(
        {}, description="what another regime than ds2 has for settings, of its own and in place of step's"
    )

    @model_validator(mode="after")
    def _train_given(self) -> Self:
        if (self.start == "trained") != (self.train is not None):
            raise ValueError("train is needed with start: trained, and not allowed with start: branch, which ends the training run")
        if self.train is not None and self.train.branch_epoch is not None:
            raise ValueError("train.branch_epoch: no run continues one with a sigma per example, so it must be null")
        return self


class MethodSearch(Section):
    """What differs in the sigma search for one method."""

    samples: Count | None = Field(None, description="noise samples per step (the paper's n)")


class DatasetSearch(SearchSettings):
    """The sigma search on a dataset."""

    methods: dict[MethodName, MethodSearch] = Field({}, description="what differs for a method")
    strategies: dict[StrategyName, ListedValues] = Field(
        {},
        description="what another strategy has for settings, of its own and in place of these; a list of what each is a row's second number: "
        "k_max for K, or a setting of its own",
    )


class TotalAlpha(Section):
    """A failure probability for all certified images of one log (a model, sigma and K on a split) together: each image gets an equal share."""

    total: float = Field(gt=0, lt=1, description="of each log: divided by the number of its images, not among the logs that a table reads")


def _alpha(value: Any) -> Any:
    if not isinstance(value, Mapping | TotalAlpha) and not (isinstance(value, int | float) and 0 < value < 1):
        raise ValueError("must be a number between 0 and 1, or {total: NUMBER} for all images of a log together")
    return value


class DatasetCertificateSettings(VoteSettings):
    """Certification of a dataset's images."""

    alpha: Annotated[float | TotalAlpha, BeforeValidator(_alpha)] = Field(
        0.001, description="failure probability per image, or {total: ...} for all images together; in either case of each log by itself"
    )
    n_validation: Count | None = Field(None, description="n of the validation images, which only choose sigma and K; default: n")
    k: Annotated[list[Count], Increasing] = Field(min_length=1, description="the K (search steps) that are certified; at most search.k_max")
    shards: Count = Field(
        1, description="jobs that the certificate of one row at one sigma and K is split into; another number certifies again, to the same bytes"
    )
    certificates: dict[CertificateName, PluginValues] = Field({}, description="what another certificate than smoothing has for settings of its own")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for split in () if isinstance(self.alpha, TotalAlpha) else ("test", "validation"):
            self.sampling(1, [0.0], split)
        return self

    def sampling(self, images: int, radii: list[float], split: SplitName = "test", certificate: str = "smoothing") -> ImageCertificateSettings:
        """What the certificate of each of a split's `images` images is made with; radii are those of the tables, for protocol sequential.

        alpha: of one image in one log; a total is divided by `images`.
        """
        alpha = self.alpha.total / images if isinstance(self.alpha, TotalAlpha) else self.alpha
        unread = {"fixed": ("spending", "radius_loss"), "sequential": ("radius_loss",), "two-stage": ("spending",)}[self.protocol]
        # left out of the flags: changing what the protocol does not read reruns nothing
        shared = {name: getattr(self, name) for name in VoteSettings.model_fields if name not in unread}
        if split == "validation" and self.n_validation is not None:
            shared["n"] = self.n_validation
        try:
            of_certificate = {"certificate": certificate, "set": self.certificates.get(certificate, {})}
            return ImageCertificateSettings(**shared, **of_certificate, alpha=alpha, radii=radii if self.protocol == "sequential" else [])
        except ValidationError as error:
            raise ValueError(one_line(error)) from None


class Config(Section):
    """config.yaml."""

    seed: Seed = Field(0, description="seed of everything random")
    device: Literal["cpu", "cuda"] = Field("cpu", description="cpu, or cuda: one GPU per job")
    tables: dict[TableName, list[DatasetName]] = Field(description="datasets that each table shows; Figures 3, 4 and 5 follow Tables 1, 2 and 3")
    figures: FiguresSettings = Field(default_factory=FiguresSettings.checked, description="what Figures 6 to 9 show")
    datasets: Annotated[dict[DatasetName, DatasetSettings], BeforeValidator(with_kinds)]
    train: dict[DatasetName, dict[MethodName, TrainSettings]] = Field(description="fixed-sigma training, by dataset and method")
    checkpoints: dict[DatasetName, dict[MethodName, CheckpointSettings]] = Field({}, description="published models, used in place of training")
    finetune: dict[DatasetName, dict[MethodName, FinetuneSettings]] = Field(description="training with a sigma per example, by dataset and method")
    search: dict[DatasetName, DatasetSearch]
    certify: dict[DatasetName, DatasetCertificateSettings]

    def makes(self, part: str, dataset: str, method: str) -> bool:
        """Whether `train` or `finetune` makes a method's models on a dataset; published ones stand in for `train`."""
        return method in getattr(self, part).get(dataset, {}) or (part == "train" and method in self.checkpoints.get(dataset, {}))

    def on(self, dataset: str, method: str) -> DatasetSettings:
        """A dataset's settings as they are for a method: what `uniform` says stands in where the method's noise is uniform."""
        dataset_settings = self.datasets[dataset]
        uniform = METHODS.module(method).NOISE == "uniform"
        return dataset_settings.model_copy(update=dataset_settings.uniform.model_dump(exclude_none=True)) if uniform else dataset_settings

    def numbers(self, dataset: str, kind: Kind) -> Sequence[float]:
        """The second numbers of a kind's configurations, if any: the certified K of a search that holds every K, else those of its setting.

        DdrsError where a setting that is the number is not stated, or as no number.
        """
        if kind.setting is None:
            return [] if kind.knob is None else self.certify[dataset].k
        search = self.search[dataset]
        stated = search.strategies.get(str(kind.strategy), {}).get(kind.setting, search.k_max if kind.knob == STEPS else None)
        if stated is None or isinstance(stated, dict):
            place = f"search.{dataset}.strategies.{kind.strategy}.{kind.setting}"
            raise DdrsError(f"{place}: must be a number or an increasing list of them, as each is the {kind.knob} of a search")
        return stated if isinstance(stated, list) else [stated]

    def search_of(self, dataset: str, method: str, kind: Kind, number: float | None = None) -> SearchSettings:
        """The search of a kind on a dataset as it is for a method; where each second number is a search of its own, at one (default: the first)."""
        if kind.setting is None:
            return self.search_on(dataset, method, kind.strategy)
        at = {kind.setting: self.numbers(dataset, kind)[0] if number is None else number}
        steps = self.search[dataset].strategies.get(str(kind.strategy), {}).get("k_max", 1)  # of a search at another number, one is all
        return self.search_on(dataset, method, kind.strategy, {"k_max": steps, **at})

    def search_on(self, dataset: str, method: str, strategy: str | None = None, at: Mapping[str, Any] | None = None) -> SearchSettings:
        """The search on a dataset as it is for a method, and for a strategy (default: the dataset's). at: values in place of those it states."""
        of_dataset = self.search[dataset]
        differs: dict[str, Any] = of_dataset.methods[method].model_dump(exclude_none=True) if method in of_dataset.methods else {}
        if strategy is not None and (at or strategy != of_dataset.strategy):
            differs |= {"strategy": strategy, **_parts(SearchSettings, {**of_dataset.strategies.get(strategy, {}), **(at or {})})}
        return SearchSettings.checked(**{**of_dataset.model_dump(exclude={"methods", "strategies"}), **differs})

    def regime_on(self, dataset: str, method: str, regime: str = "ds2") -> RegimeSettings:
        """How examples get their sigma in the training of a method on a dataset that goes on from fixed-sigma models."""
        tuned = self.finetune[dataset][method]
        return RegimeSettings.checked(**{**tuned.step.model_dump(), "regime": regime, **_parts(StepSettings, tuned.regimes.get(regime, {}))})

    def sigma_texts(self, dataset: str, method: str) -> list[str]:
        """A method's sigmas on a dataset as they stand in paths."""
        return [f"{sigma:.2f}" for sigma in self.on(dataset, method).sigmas] if dataset in self.datasets else []

    def finetune_settings(self, dataset: str, method: str) -> TrainSettings:
        """The run that training with a sigma per example is: its own, or the rest of the branched one."""
        stated = self.finetune[dataset][method].train
        return stated if stated is not None else self.train[dataset][method]


def _parts(shared: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a plug-in: those that it shares with others, by name, and its own as `set`."""
    of_plugin = {name: value for name, value in values.items() if name not in shared.model_fields}
    return {**{name: value for name, value in values.items() if name not in of_plugin}, "set": of_plugin}
