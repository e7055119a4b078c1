"""Reading a checkpoint that others published, and writing it as one of ours: `ddrs import-checkpoint`."""

import pickle
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ddrs.errors import DdrsError
from ddrs.files import require
from ddrs.models import architectures, checkpoints
from ddrs.models.formats import FORMATS, IMAGE_FORMATS, Published, preprocessing_of, published
from ddrs.models.preprocessing import Preprocessed, with_preprocessing
from ddrs.models.rowwise import ROWS, check_rows_alone
from ddrs.noise.laws import check_sigma
from ddrs.provenance.digests import file_digest
from ddrs.provenance.sidecar import write_sidecar
from ddrs.rows import FIXED
from ddrs.training.losses import METHODS

UNUSED = "num_batches_tracked"  # BatchNorm's counter, which no output depends on; files of torch before 0.4.1 have none


def import_checkpoint(
    file: Path,
    out: Path,
    form: str,
    dataset: str,
    method: str,
    sigma: float,
    preprocessing: str | None,
    sidecar: Path | None,
    say: Callable[[str], None],
) -> None:
    """Write a published fixed-sigma model as a checkpoint of ours, with its preprocessing.

    form: a name of FORMATS. method and sigma: how the model was trained, as no file says it. preprocessing: none, center or normalize, where
    files of the format do not say it. The model gives the scores of the published one, to rounding; where that one ends in a softmax, the
    scores in front of it: softmax(scores) is then the published model's own output, and the class of the largest is the same.
    Nothing in the file is run: it may hold tensors and plain values only. Errors: DdrsError for a file that is not exactly of this format.
    """
    started = time.time()
    form_of = published(form, dataset)
    recorded = preprocessing_of(form, dataset, preprocessing)
    check_sigma(sigma)
    noise = METHODS.module(method).NOISE
    if noise != "gaussian":
        raise DdrsError(f"method {method}: trains with {noise} noise; models of format {form} were trained with gaussian noise")
    content = _read(file)
    key, images = FORMATS[form].weights, IMAGE_FORMATS[dataset]
    arch = content.get("arch")
    if form_of.arch is not None and not (isinstance(arch, str) and arch == form_of.arch):
        # what else a file may hold there may have a text without end
        said = repr(arch[:80]) if isinstance(arch, str) else "None" if arch is None else f"no text but a {type(arch).__name__}"
        raise DdrsError(f"{file}: its arch is {said}; models of format {form} for {dataset} are {form_of.arch!r}")
    net = architectures.build_model(form_of.architecture, images.shape, images.classes)
    net.load_state_dict(_weights(file, content, key, form, form_of, net.state_dict(), images.classes))
    model = with_preprocessing(net, recorded, images.shape[0]).eval()
    check_rows_alone(model, torch.rand(ROWS, *images.shape, generator=torch.Generator().manual_seed(0)))
    epoch = content.get("epoch")
    origin = {"format": form, "outputs": FORMATS[form].outputs, "epoch": epoch if isinstance(epoch, int) else None, "sha256": file_digest(file)}
    facts = {
        "architecture": form_of.architecture,
        "shape": list(images.shape),
        "classes": images.classes,
        "dataset": dataset,
        "method": method,
        "regime": FIXED.trained,
        "sigma": sigma,
        "noise": noise,
        "preprocessing": recorded,
        "origin": origin,
    }
    checkpoints.save_model(out, model, facts)
    write_sidecar(sidecar, facts, {"file": str(file)}, started)
    behind = f"behind {recorded['kind']}" if isinstance(model, Preprocessed) else "without preprocessing"
    softmax = ", without the softmax at its end" if origin["outputs"] == "probabilities" else ""
    say(f"{out}: {form_of.architecture} {behind}{softmax}, from {file}")


def _read(file: Path) -> Mapping[str, Any]:
    require(file, "published checkpoint")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = str(error).partition("Unsupported global: GLOBAL ")[2].split()
        what = f"{found[0]}, and loading it could run foreign code" if found else "more than tensors and plain values, or is damaged"
        raise DdrsError(f"{file}: refused: holds {what}") from None
    except OSError:
        raise
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise DdrsError(f"{file}: not a readable PyTorch checkpoint ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(content, Mapping):
        raise DdrsError(f"{file}: holds a {type(content).__name__}, not a checkpoint with a state dict")
    return content


def _weights(
    file: Path, content: Mapping[str, Any], key: str, form: str, form_of: Published, expected: Mapping[str, torch.Tensor], classes: int
) -> dict[str, torch.Tensor]:
    """The network's weights by our names, each of the right shape and finite. DdrsError for any other set of weights."""
    held = content.get(key)
    if not isinstance(held, Mapping) or not held or not all(isinstance(name, str) and _is_plain(value) for name, value in held.items()):
        holds = ", ".join(map(str, content)) or "nothing"
        raise DdrsError(f"{file}: has no state dict {key!r} of named dense tensors, as files of format {form} have; it holds {holds}"[:300])
    found = _without_prefixes(file, dict(held), form, form_of.prefix)
    found |= {name: value for name, value in expected.items() if name.endswith(UNUSED) and name not in found}
    unknown, missing = [n for n in found if n not in expected], [n for n in expected if n not in found]
    if unknown or missing:
        parts = [f"{len(names)} {what}, as {names[0]}" for names, what in ((unknown, "that it has not"), (missing, "missing")) if names]
        raise DdrsError(f"{file}: not the weights of {form_of.architecture}, which format {form} has here: {' and '.join(parts)}")
    for name, value in found.items():
        if name == "fc.weight" and value.ndim and len(value) != classes:
            raise DdrsError(f"{file}: a model for {len(value)} classes, not {classes}")
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            has, needed = ((tuple(one.shape), str(one.dtype).removeprefix("torch.")) for one in (value, expected[name]))
            raise DdrsError(f"{file}: {name} is {has[1]} {has[0]}; {form_of.architecture} has {needed[1]} {needed[0]}")
        if not bool(torch.isfinite(value).all()):
            raise DdrsError(f"{file}: {name} has values that are not finite")
    return found


def _is_plain(value: object) -> bool:
    """Whether it is a tensor that holds its values, one by one."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta


def _without_prefixes(file: Path, held: dict[str, torch.Tensor], form: str, prefix: str) -> dict[str, torch.Tensor]:
    """The weights named as within the network: without the format's prefix, and DataParallel's `module.` around either."""
    for one in ("module.", prefix, "module."):
        others = [name for name in held if not name.startswith(one)]
        if not others:
            held = {name.removeprefix(one): value for name, value in held.items()}
        elif one == prefix:
            raise DdrsError(f"{file}: has a weight {others[0]}; all weights of format {form} start with {prefix!r} here")
    return held
