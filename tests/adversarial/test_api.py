"""What the Python interface does with what it is not made for: a table of (name, input, what must happen), one line per kind.

`SAME`: certified as the plain input is. A text: refused with a DdrsError of one line that matches it, before any certificate is made.
"""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

import ddrs
from ddrs.errors import DdrsError
from ddrs.models.running import device_of
from ddrs.noise.laws import CERTIFIABLE
from ddrs.noise.streams import NoiseStream

SAME = None
IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(2))
PLAIN: dict[str, Any] = {"x": IMAGES, "sigma": 0.5, "n0": 20, "n": 300, "alpha": 0.01}
SEARCH: dict[str, Any] = {"x": IMAGES, "sigma0": 0.5, "lr": 0.1, "iterations": 2, "n": 4}


class Net(nn.Module):
    """Linear in the image; `made` of its scores is what the model returns."""

    def __init__(self, made=lambda scores: scores):
        super().__init__()
        self.head, self.made = nn.Linear(16, 3), made
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(3, 16, generator=torch.Generator().manual_seed(3)))
            self.head.bias.copy_(-self.head(torch.full((1, 16), 0.5))[0] + self.head.bias)

    def forward(self, x: torch.Tensor) -> Any:
        return self.made(self.head(x.flatten(1)))


@dataclass
class Output:
    logits: Any


Named = namedtuple("Named", ["logits", "aux"])


class Changing:
    """A function that returns another number of classes each time."""

    def __init__(self):
        self.classes = 2

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.classes += 1
        return x.flatten(1)[:, : self.classes]


def masked(scores: torch.Tensor) -> torch.Tensor:
    """A fourth class that a mask rules out."""
    return torch.cat([scores, torch.full_like(scores[:, :1], -torch.inf)], 1)


def one_row(value: float) -> Net:
    return Net(lambda scores: scores.masked_fill((torch.arange(len(scores)) == 0)[:, None], value))


def raising(error: Exception) -> Net:
    def made(scores: torch.Tensor) -> torch.Tensor:
        raise error

    return Net(made)


def big_endian(x: torch.Tensor) -> np.ndarray:
    return x.numpy().astype(">f4")


MODELS: list[tuple[str, Any, str | None]] = [
    ("function", lambda x: Net()(x), SAME),
    ("bound method", Net().forward, SAME),
    ("object with logits", Net(Output), SAME),
    ("named tuple with logits", Net(lambda scores: Named(scores, scores[:, :1])), SAME),
    ("function of an object with logits", lambda x: Output(Net()(x)), SAME),
    ("float64 model", Net().double(), SAME),
    ("float64 scores", Net(lambda scores: scores.double()), SAME),
    ("scores with gradient", Net(lambda scores: scores.clone()), SAME),
    ("-inf of a mask", Net(masked), SAME),
    ("a row of -inf", one_row(-torch.inf), "NaN or infinite"),
    ("a row of nan", one_row(torch.nan), "NaN or infinite"),
    ("a row of inf", one_row(torch.inf), "NaN or infinite"),
    ("tuple", Net(lambda scores: (scores, scores)), "returned a tuple; a tensor"),
    ("list", Net(lambda scores: [scores]), "returned a list; a tensor"),
    ("dict", Net(lambda scores: {"out": scores}), "returned a dict; a tensor"),
    ("none", Net(lambda scores: None), "returned a NoneType; a tensor"),
    ("numpy scores", Net(lambda scores: scores.detach().numpy()), "returned a ndarray; a tensor"),
    ("logits none", Net(lambda scores: Output(None)), "returned a NoneType; a tensor"),
    ("complex scores", Net(lambda scores: scores.to(torch.complex64)), "complex64 scores"),
    ("sparse scores", Net(lambda scores: scores.to_sparse()), "dense real ones"),
    ("one class", Net(lambda scores: scores[:, :1]), r"shape \(\d+, 1\) for a batch"),
    ("row lost", Net(lambda scores: scores[1:]), "for a batch of"),
    ("changing classes", Changing(), "classes after those of"),
    ("error of its own", raising(KeyError("two\nlines")), "the model fails on a batch .*: KeyError: "),
    ("no model", None, "model: a NoneType; must be a torch.nn.Module or a function"),
    ("name of a model", "resnet", "model: a str; must be"),
    ("weights", Net().state_dict(), "model: a OrderedDict; must be"),
    ("class of a model", Net, "the model (fails|returned)"),
    ("meta device", Net().to("meta"), "device meta"),
]

IMAGE_INPUTS: list[tuple[str, Any, str | None]] = [
    ("numpy", IMAGES.numpy(), SAME),
    ("numpy float64", IMAGES.double().numpy(), SAME),
    ("numpy of other bytes", big_endian(IMAGES), SAME),
    ("numpy reversed twice", IMAGES.numpy()[::-1].copy()[::-1], SAME),
    ("float64", IMAGES.double(), SAME),
    ("requires_grad", IMAGES.clone().requires_grad_(), SAME),
    ("parameter", nn.Parameter(IMAGES.clone()), SAME),
    ("not contiguous", IMAGES.transpose(2, 3).contiguous().transpose(2, 3), SAME),
    ("list", IMAGES.tolist(), "x: a list; must be a tensor or NumPy array"),
    ("none", None, "x: a NoneType; must be"),
    ("sparse", IMAGES.to_sparse(), "x: a tensor of layout torch.sparse_coo"),
    ("meta", IMAGES.to("meta"), "x: a tensor of layout .* on meta"),
    ("integers", (255 * IMAGES).byte(), "x: torch.uint8 .* must be float"),
    ("numpy integers", (255 * IMAGES).byte().numpy(), "x: an array of uint8; must be"),
    ("numpy objects", np.array([None, 1.0]), "x: an array of object; must be"),
    ("complex", IMAGES.to(torch.complex64), "x: torch.complex64 .* must be float"),
    ("float8", IMAGES.to(torch.float8_e4m3fn), "x: torch.float8_e4m3fn .* must be float"),
    ("no images", IMAGES[:0], "holds no images"),
    ("zero size", IMAGES[:, :, :0], "images without values"),
    ("scalar", torch.tensor(0.5), "x: torch.float32 of shape"),
    ("image without channels", torch.rand(28, 28), r"fails on a batch \(\d+, 28\) .*two axes are a batch of vectors; an image is \(C, H, W\)"),
    ("batch without channels", torch.rand(10, 28, 28), r"fails on a batch \(\d+, 10, 28, 28\)"),
    ("vector of nan", torch.full((16,), torch.nan), "NaN or infinite"),
]

ARGUMENTS: list[tuple[str, dict[str, Any], str | None]] = [
    ("numpy integers", {"n0": np.int64(20), "n": np.int32(300), "seed": np.int64(0), "batch_size": np.int64(128)}, SAME),
    ("alpha float32", {"alpha": np.float64(0.01)}, SAME),
    ("sigma integer", {"sigma": 1}, SAME),
    ("sigma list", {"sigma": [0.5, 0.5, 0.5]}, SAME),
    ("sigma ragged", {"sigma": [[0.5], [0.5, 0.5]]}, "sigma .* must be a number or one number per image"),
    ("sigma bfloat16", {"sigma": torch.tensor(0.5, dtype=torch.bfloat16)}, "sigma .*bfloat16.* must be a number"),
    ("sigma float16", {"sigma": np.float16(0.5)}, "sigma .* must be a number"),
    ("sigma complex", {"sigma": 0.5 + 0j}, "sigma .* must be a number"),
    ("sigma text", {"sigma": "0.5"}, "sigma .* must be a number"),
    ("sigma none", {"sigma": None}, "sigma .* must be a number"),
    ("sigma true", {"sigma": True}, "sigma .* must be a number"),
    ("sigma sparse", {"sigma": torch.full((3,), 0.5).to_sparse()}, "sigma .* must be a number"),
    ("sigma for others", {"sigma": [0.5, 0.5]}, r"sigma of shape \(2,\)"),
    ("radii number", {"protocol": "sequential", "radii": 0.5}, "radii: 0.5; must be a list"),
    ("radii text", {"protocol": "sequential", "radii": "0.5"}, "radii: '0.5'; must be a list"),
    ("radii of text", {"protocol": "sequential", "radii": ["0.5"]}, r"radii: must be a number \(got '0.5'\)"),
    ("radii for fixed", {"radii": [0.5]}, "radii: are for protocol sequential; protocol 'fixed' takes none"),
    ("no radii for fixed", {"radii": []}, "radii: are for protocol sequential"),
    ("seed none", {"seed": None}, r"seed: must be an integer \(got None\)"),
    ("seed text", {"seed": "1"}, r"seed: must be an integer \(got '1'\)"),
    ("seed fraction", {"seed": 1.7}, r"seed: must be an integer \(got 1.7\)"),
    ("seed true", {"seed": True}, r"seed: must be an integer \(got True\)"),
    ("seed negative", {"seed": -1}, r"seed = -1: must be at least 0 and below 2\^64"),
    ("seed too large", {"seed": 2**65}, r"seed = \d+: must be at least 0 and below 2\^64"),
    ("batch_size fraction", {"batch_size": 1.5}, r"batch_size: must be an integer \(got 1.5\)"),
    ("batch_size text", {"batch_size": "8"}, r"batch_size: must be an integer \(got '8'\)"),
    ("batch_size true", {"batch_size": True}, r"batch_size: must be an integer \(got True\)"),
    ("batch_size zero", {"batch_size": 0}, "batch_size = 0: must be at least 1"),
    ("n text", {"n": "300"}, r"n: must be an integer \(got '300'\)"),
    ("n fraction", {"n": 300.0}, r"n: must be an integer \(got 300.0\)"),
    ("n0 true", {"n0": True}, r"n0: must be an integer \(got True\)"),
    ("alpha text", {"alpha": "0.01"}, r"alpha: must be a number \(got '0.01'\)"),
    ("alpha none", {"alpha": None}, r"alpha: must be a number \(got None\)"),
    ("alpha nan", {"alpha": float("nan")}, "alpha: "),
    ("ids number", {"example_ids": 5}, "example_ids: int; must be a list"),
    ("ids text", {"example_ids": "abc"}, "example_ids: str; must be a list"),
    ("ids set", {"example_ids": {1, 2, 3}}, "example_ids: set; must be a list"),
    ("ids too few", {"example_ids": [1]}, "example_ids: 1 ids for 3 images"),
    ("noise none", {"noise": None}, SAME),
    ("noise unknown", {"noise": "laplace"}, "noise 'laplace': unknown; known are gaussian, uniform, lattice, uniform-lattice"),
    ("ids of two images", {"example_ids": [1, 2, "1"]}, "example_ids: '1' stands for two different images, which would get the same noise"),
    ("protocol none", {"protocol": None}, "protocol: "),
]

SEARCH_ARGUMENTS: list[tuple[str, dict[str, Any], str | None]] = [
    *[(name, more, must) for name, more, must in ARGUMENTS if set(more) <= {"seed", "example_ids"}],
    ("sigma0 none", {"sigma0": None}, r"sigma0: must be a number \(got None\)"),
    ("sigma0 text", {"sigma0": "0.5"}, r"sigma0: must be a number \(got '0.5'\)"),
    ("lr text", {"lr": "0.1"}, r"lr: must be a number \(got '0.1'\)"),
    ("lr nan", {"lr": float("nan")}, "lr = nan: must be a number > 0"),
    ("lr infinite", {"lr": float("inf")}, "step_size: .*finite"),
    ("iterations fraction", {"iterations": 1.5}, r"iterations: must be an integer \(got 1.5\)"),
    ("iterations true", {"iterations": True}, r"iterations: must be an integer \(got True\)"),
    ("n text", {"n": "1"}, r"n: must be an integer \(got '1'\)"),
    ("sigma_max none", {"sigma_max": None}, r"sigma_max: must be a number \(got None\)"),
    ("strategy unknown", {"strategy": "best"}, "strategy"),
    ("noise none", {"noise": None}, "noise None: unknown"),
]


def named(table: list[tuple[str, Any, str | None]]) -> list[Any]:
    return [pytest.param(given, must, id=name) for name, given, must in table]


def check_certify(must: str | None, model: Any, more: dict[str, Any]) -> None:
    if must is not SAME:
        with pytest.raises(DdrsError, match=must) as refused:
            ddrs.certify(model, **{**PLAIN, **more})
        assert "\n" not in str(refused.value)
        return
    found = ddrs.certify(model, **{**PLAIN, **more})
    expected = ddrs.certify(Net(), **{**PLAIN, **({"sigma": more["sigma"]} if "sigma" in more else {})})
    assert (found.counts[:, :3] == expected.counts).all() and found.counts.sum() == expected.counts.sum()
    assert (found.radius == expected.radius).all()


def check_search(must: str | None, model: Any, more: dict[str, Any]) -> None:
    if must is not SAME:
        with pytest.raises(DdrsError, match=must) as refused:
            ddrs.optimize_sigma(model, **{**SEARCH, **more})
        assert "\n" not in str(refused.value)
        return
    expected = ddrs.optimize_sigma(Net(), **SEARCH)
    torch.testing.assert_close(ddrs.optimize_sigma(model, **{**SEARCH, **more}), expected, rtol=0, atol=1e-5)
    assert not torch.equal(expected, torch.full_like(expected, SEARCH["sigma0"]))


@pytest.mark.parametrize(("model", "must"), named(MODELS))
@pytest.mark.parametrize("check", [check_certify, check_search])
def test_models(check: Any, model: Any, must: str | None):
    check(must, model, {})


@pytest.mark.parametrize(("images", "must"), named(IMAGE_INPUTS))
@pytest.mark.parametrize("check", [check_certify, check_search])
def test_images(check: Any, images: Any, must: str | None):
    check(must, Net(), {"x": images})


@pytest.mark.parametrize(("more", "must"), named(ARGUMENTS))
def test_arguments_of_certify(more: dict[str, Any], must: str | None):
    check_certify(must, Net(), more)


@pytest.mark.parametrize(("more", "must"), named(SEARCH_ARGUMENTS))
def test_arguments_of_optimize_sigma(more: dict[str, Any], must: str | None):
    check_search(must, Net(), more)


def test_the_cause_of_a_models_own_error_is_kept():
    cause = KeyError("x")
    with pytest.raises(DdrsError) as refused:
        ddrs.certify(raising(cause), **PLAIN)
    assert refused.value.__cause__ is cause


def test_two_axes_are_vectors_for_a_model_that_takes_vectors():
    """One clear meaning, stated: 28 certificates."""
    assert ddrs.certify(nn.Linear(28, 3), torch.rand(28, 28), 0.5, 20, 300, 0.01).prediction.shape == (28,)


def test_a_device_that_is_neither_cpu_nor_cuda_gets_the_noise_of_the_cpu():
    """So what is known of its law holds; meta stands for a device whose generators nothing is known of."""
    for noise in CERTIFIABLE.values():
        sampler, copied = noise.at(0.5), Mock()
        stream = NoiseStream(sampler, (3,), 0, "estimate", "", 0, torch.tensor([0.2, 0.4, 0.6]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "copy_", copied)
            assert stream.draw(150, "meta").device.type == "meta"
        again = NoiseStream(sampler, (3,), 0, "estimate", "", 0, torch.tensor([0.2, 0.4, 0.6])).draw(150)
        assert torch.equal(copied.call_args.args[0], again)
    for noise in CERTIFIABLE.values():
        assert noise.at(0.5).deviation(torch.device("mps")) == noise.at(0.5).deviation(torch.device("cpu"))


def test_a_model_without_parameters_runs_where_its_buffers_lie():
    model = nn.BatchNorm1d(3, affine=False)
    assert device_of(model) == torch.device("cpu")
    with pytest.raises(DdrsError, match="device meta"):
        device_of(model.to("meta"))
