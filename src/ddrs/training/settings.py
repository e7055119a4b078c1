"""The settings of a training run, as they stand in config.yaml and in the verbs' flags. No torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ddrs.sections import BatchSize, Count, Increasing, PluginValues, Section, known_name, later, own_settings, values_at
from ddrs.sigma.settings import StepSettings
from ddrs.training.losses import METHODS, LossSettings
from ddrs.training.regimes import REGIMES

RegimeName = Annotated[str, known_name("regime", REGIMES)]


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
        return self.model_copy(update={"loss": values_at("loss", self.loss, sigma)})

    def loss_settings(self, method: str) -> LossSettings:
        """The loss's own settings, checked by the method's model."""
        return own_settings("loss", method, METHODS.module(method).Settings, self.loss, {})


class RegimeSettings(StepSettings):
    """How an example gets its sigma in training that goes on from a fixed-sigma model."""

    regime: RegimeName = later("ds2", description="how examples get a sigma; ds2: one ascent step before each batch (Algorithm 2)")
    set: PluginValues = later({}, description="settings of the regime's own")

    def at_sigma(self, sigma: str) -> Self:
        """The same settings with the mappings of `set` replaced by their value at one sigma (two decimals)."""
        return self.model_copy(update={"set": values_at(self.regime, self.set, sigma)})

    def of_regime(self) -> StepSettings:
        """The settings as the regime's own model has them."""
        shared = {name: getattr(self, name) for name in StepSettings.model_fields}
        return own_settings("regime", self.regime, REGIMES.module(self.regime).Settings, self.set, shared)
