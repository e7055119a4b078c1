"""What docs and docstrings claim of guarantees: each sentence against what the code does."""

import ast
import inspect
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtr

import ddrs
from ddrs.certification.engine import certify, image_deviation
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.experiment.config import DatasetCertificateSettings, TotalAlpha
from ddrs.noise.laws import CERTIFIABLE
from ddrs.noise.streams import NoiseStream
from ddrs.operations.publish import BYTES, publish
from ddrs.provenance.sidecar import write_sidecar
from ddrs.results.captions import ALPHA_SENTENCE, protocol_sentence
from ddrs.results.published.flaws import flaw_of_print, half_unit, largest_acr
from ddrs.results.published.printed import PRINTED_IMAGES, printed_row
from ddrs.results.verdicts import DEFINITION
from ddrs.rows import TABLES
from ddrs.statistics.bounds import lower_confidence_bound

ROOT = Path(__file__).parents[2]
DEVICES = [torch.device("cpu"), torch.device("cuda")]


# the sampler's law: a bound on the total variation is proven for every noise, and paid


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("name", CERTIFIABLE)
def test_every_noise_claims_and_pays_a_bound_on_the_samplers_error(name: str, device: torch.device):
    noise = CERTIFIABLE[name]
    claimed, paid = noise.at(0.5).deviation(device), image_deviation(noise, 0.5, device, 3072)
    assert 0 < claimed <= 2.0**-47 and paid == 3072 * claimed


def test_zero_is_as_likely_as_the_law_has_it():
    """Of Gaussian noise Phi(1/8192) - Phi(-1/8192), 9.7e-5; a float32 sampler has an atom there, of 2^-23 where it should be 1e-45."""
    out = torch.empty(128, 2**17)
    NoiseStream(CERTIFIABLE["gaussian"].at(1.0), (2**17,), 7, "illustrate", "", 0).fill(out)
    expected = out.numel() * (2 * ndtr(1 / 8192) - 1)
    assert abs(int((out == 0).sum()) - expected) < 5 * np.sqrt(expected) < expected / 4


@pytest.mark.parametrize("name", CERTIFIABLE)
def test_p_lower_is_the_bound_of_the_votes_less_what_is_proven(name: str):
    model = torch.nn.Linear(4, 2)
    found = certify(model, torch.zeros(4), 0.5, 100, 200, 0.01, noise=name, batch_size=100)
    assert np.float64(found.p_lower) == max(0.0, lower_confidence_bound(int(found.n_top), 200, 0.01) - 4 * 2.0**-66)


# which ACRs of the print cannot be so, and what that rests on


def test_two_of_the_prints_flaws_rest_on_sigma_at_most_doubling_and_say_so():
    places = [(table, dataset, row.label) for table, rows in TABLES.items() for row in rows for dataset in PRINTED_IMAGES]
    found = {place[2]: said.partition(":")[0] for place in places if printed_row(*place) and (said := flaw_of_print(*place, "acr"))}
    assert found == {
        "cohen-ds": "print inconsistent",
        "cohen-ds2": "print inconsistent",
        "smoothadv-ds": "inconsistent if sigma at most doubles",
        "smoothadv-ds2": "inconsistent if sigma at most doubles",
        "macer": "print inconsistent",
        "macer-ds": "print inconsistent",
    }
    assert all(f"`{said}`" in DEFINITION for said in found.values()) and "four times" in DEFINITION and "assumption" in DEFINITION


@pytest.mark.parametrize(
    ("table", "label", "largest"),
    [
        ("table1", "cohen-ds", 7.97),
        ("table1", "cohen-ds2", 4.98),
        ("table3", "macer-ds", 5.58),
        ("table2", "smoothadv-ds", 2.04),
        ("table2", "smoothadv-ds2", 2.26),
    ],
)
def test_up_to_which_growth_of_sigma_a_flaw_of_the_print_stands(table: str, label: str, largest: float):
    lowest = printed_row(table, "cifar10", label)["acr"] - half_unit(table, "acr")
    assert largest_acr(table, "cifar10", label, largest - 0.01) < lowest < largest_acr(table, "cifar10", label, largest + 0.01)


# alpha: of one image in one log


def test_every_docstring_of_what_takes_alpha_says_whose_it_is():
    found = {}
    for path in Path(ddrs.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "alpha" in {one.arg for one in [*node.args.args, *node.args.kwonlyargs]}:
                found[node.name] = ast.get_docstring(node) or ""
    assert {"certify", "lower_confidence_bound", "upper_confidence_bound", "boundaries", "efficacy_boundary"} <= found.keys()
    del found["check_alpha"]  # a range, whatever alpha is of
    words = ("by itself", "of one image", "per image")
    assert [name for name, text in found.items() if "alpha" not in text or not any(word in text for word in words)] == []
    for name in ("certify", "lower_confidence_bound"):
        assert "1 - B * alpha" in found[name]


def test_a_total_alpha_is_of_a_log_and_its_help_docs_and_captions_say_so():
    settings = DatasetCertificateSettings.model_validate({"alpha": {"total": 0.05}, "k": [1], "n": 2500})
    assert settings.sampling(100, []).alpha == 0.05 / 100  # whatever else is certified
    helps = (TotalAlpha.model_fields["total"], ImageCertificateSettings.model_fields["alpha"], DatasetCertificateSettings.model_fields["alpha"])
    assert all("log" in str(one.description) for one in helps)
    text = (ROOT / "docs" / "certification.md").read_text(encoding="utf-8")
    assert "*per image and log*" in text and "`alpha: {total: 0.05}` per log" in text and "always the failure probability *per image*" not in text
    facts = {"images": 2, "split": "test", "protocol": "fixed", "bound": "binary", "n0": 1, "n_max": 100, "alpha": 0.025}
    assert "alpha = 0.025 per image and log" in protocol_sentence({**facts, "noise": "lattice", "precision": "float32"})
    for table in ("table1.md", "table2_selected.md"):
        assert ALPHA_SENTENCE in (ROOT / "docs" / "results" / table).read_text(encoding="utf-8")


# bytes repeat on equal CPUs


def test_a_sidecar_names_the_cpu_and_the_instructions_that_bytes_depend_on(tmp_path: Path):
    write_sidecar(tmp_path / "s.json", {}, {}, time.time())
    cpu = json.loads((tmp_path / "s.json").read_text())["cpu"]
    assert cpu["name"] and cpu["instructions"] == torch.backends.cpu.get_cpu_capability()


def test_how_far_another_machine_may_be_stands_beside_the_tables(tmp_path: Path):
    table, config = tmp_path / "table2.md", tmp_path / "config.yaml"
    table.write_text("**Table 2.**\n")
    config.write_text("seed: 0\n")
    publish([table], config, tmp_path / "docs")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for text in ((tmp_path / "docs" / "README.md").read_text(), (ROOT / "docs" / "results" / "README.md").read_text(encoding="utf-8")):
        assert BYTES in text and text.index(BYTES) < text.index("**Table")
    for words in ("1.381, 1.460 and 1.516", "18 of these 36 numbers", "equal CPUs"):
        assert words in " ".join(readme.split())


# threats


def test_the_readme_leads_to_a_short_page_on_threats():
    text = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
    assert "](docs/threats.md)" in (ROOT / "README.md").read_text(encoding="utf-8") and len(text.splitlines()) <= 60
    for word in ("Mistakes", "Bit rot", "Hand edits", "recomputes the digests", "malicious model", "Python code"):
        assert word in text


@pytest.mark.parametrize("name", [name for name in ddrs.__all__ if name not in ("ABSTAIN", "DdrsError")])
def test_the_docstring_of_a_public_name_says_each_argument_once(name: str):
    one = getattr(ddrs, name)
    parts = re.split(r"^(Guarantee|Args|Returns|Raises|Source):\n", inspect.getdoc(one), flags=re.M)
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert re.findall(r"^    (\w+): ", said["Args"], re.M) == list(inspect.signature(one).parameters)
    assert list(said) == [part for part in ("Guarantee", "Args", "Returns", "Raises", "Source") if part in said]
