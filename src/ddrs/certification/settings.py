"""The settings of a certificate, as they stand in config.yaml and in the verbs' flags. No torch."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from ddrs.certification.certificates import CERTIFICATES
from ddrs.errors import DdrsError
from ddrs.rows import spelled
from ddrs.sections import Count, Increasing, PluginValues, Section, known_name, later, own_settings, values_at
from ddrs.statistics.bounds import check_n

Precision = Literal["float32", "tf32", "bfloat16", "float16", "float32-compiled", "tf32-compiled", "bfloat16-compiled", "float16-compiled"]
PRECISIONS = get_args(Precision)
CertificateName = Annotated[str, known_name("certificate", CERTIFICATES)]


class VoteSettings(Section):
    """How an image's votes are drawn and what is concluded from them."""

    n0: Count = Field(100, description="samples that pick the class (two-stage: and n)")
    n: Count = Field(100_000, description="fresh samples that estimate its probability (sequential, two-stage: at most)")
    protocol: Literal["fixed", "sequential", "two-stage"] = Field(
        "fixed", description="fixed: n samples (Cohen et al.); sequential: as many as the radii need; two-stage: as many as the pilot plans"
    )
    bound: Literal["binary", "joint"] = Field("binary", description="binary: p_B = 1 - p_A; joint: a bound of its own for the runner-up")
    noise: Literal["gaussian", "uniform", "lattice"] = Field(
        "lattice", description="lattice: the noise of the model's training on the 1/255 pixel grid of 8-bit images; else that on a grid of its own"
    )
    precision: Precision = Field("float32", description="of the forward pass; -compiled: through torch.compile")
    spending: Literal["sqrt", "log"] = Field("sqrt", description="sequential: how alpha is spent over the looks")
    radius_loss: float = Field(0.02, ge=0, description="two-stage: what a smaller n may cost in radius, in units of sigma")

    @model_validator(mode="after")
    def _bound_of_protocol(self) -> Self:
        if self.bound == "joint" and self.protocol == "sequential":
            raise ValueError("bound: joint is for protocols fixed and two-stage; sequential tests one class against p0")
        return self


class ImageCertificateSettings(VoteSettings):
    """The certificate of one image."""

    alpha: float = Field(0.001, gt=0, lt=1, description="failure probability per image, in each log")
    radii: Annotated[list[Annotated[float, Field(ge=0)]], Increasing] = Field([], description="sequential: the radii that are asked for, increasing")
    certificate: CertificateName = later("smoothing", description="what is concluded from the votes; smoothing: Cohen et al. (2019)")
    set: PluginValues = later({}, description="settings of the certificate's own")

    def at_sigma(self, sigma: str) -> Self:
        """The same settings with the mappings of `set` replaced by their value at one sigma (two decimals)."""
        return self.model_copy(update={"set": values_at(self.certificate, self.set, sigma)})

    def at_knob(self, knob: str | None, number: float | None) -> Self:
        """The same settings where the certificate has one that is called as the knob of a search: at its number. DdrsError if they say another."""
        if number is None or knob is None or knob not in CERTIFICATES.module(self.certificate).Settings.model_fields:
            return self
        if self.set.get(knob, number) != number:
            raise DdrsError(f"certificate: {knob} of {self.certificate} is {self.set[knob]}, but sigma is searched at {knob} = {spelled(number)}")
        return self.model_copy(update={"set": {**self.set, knob: number}})

    def of_certificate(self) -> Section:
        """The certificate's own settings, checked by its model."""
        return own_settings("certificate", self.certificate, CERTIFICATES.module(self.certificate).Settings, self.set, {})

    @model_validator(mode="after")
    def _n_can_certify(self) -> Self:
        check_n(self.n, self.alpha / 2 if self.bound == "joint" else self.alpha)
        if self.protocol == "sequential" and not self.radii:
            raise ValueError("protocol sequential: needs radii, the increasing list of radii that are asked for")
        return self
