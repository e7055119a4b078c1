"""Figures 6 and 9: which images are shown, what is drawn of them, and what is refused."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ddrs.certification.records import read_log
from ddrs.data.splits import as_float, load_split
from ddrs.errors import DdrsError
from ddrs.figures.examples import Panel, chosen, examples_figure
from ddrs.results.captions import Caption
from tests.unit.helpers import write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

OWN = {"dataset": "mnist5k", "method": "cohen-ds", "K": 9}


def log_of(path: Path, sigmas: dict[int, float], wrong: tuple[int, ...] = (), abstains: tuple[int, ...] = ()) -> Path:
    """A log whose sigma differs by example; idx 0, 5, 10, ... of class 1."""
    parts = []
    for idx, sigma in sigmas.items():
        predict = -1 if idx in abstains else 2 if idx in wrong else 1
        one = write_log(path.with_suffix(f".{idx}"), [(idx, 1, predict, 0.0 if predict < 0 else 0.5)], sigma=sigma, examples=len(sigmas), **OWN)
        parts.append(one.read_text().splitlines())
    path.write_text("\n".join([parts[0][0], *(part[1] for part in parts)]) + "\n")
    return path


def test_images_are_at_quantiles_of_sigma_among_the_certified_lowest_index_first(tmp_path: Path):
    sigmas = {0: 0.5, 1: 0.1, 2: 0.3, 3: 0.3, 4: 0.05, 5: 0.9, 6: 0.2}
    log = read_log(log_of(tmp_path / "log", sigmas, wrong=(5,), abstains=(4,)))
    # in order: 1 (0.1), 6 (0.2), 2 (0.3), 3 (0.3), 0 (0.5)
    assert [int(log.table.loc[row, "idx"]) for row in chosen(log, [0.0, 0.25, 0.5, 0.75, 0.99, 1.0])] == [1, 6, 2, 3, 3, 0]


def test_no_certified_image_is_one_line(tmp_path: Path):
    with pytest.raises(DdrsError, match="no image is certified correctly"):
        chosen(read_log(log_of(tmp_path / "log", {0: 0.5, 1: 0.1}, wrong=(0,), abstains=(1,))), [0.5])


@pytest.fixture
def panel(tmp_path: Path, small_mnist: Path) -> Panel:
    own = log_of(tmp_path / "own", {0: 0.4, 5: 0.1, 10: 0.2})
    fixed = write_log(tmp_path / "fixed", [(0, 1, 1, 0.309), (5, 1, -1, 0.0), (10, 1, 2, 0.1)], dataset="mnist5k")
    return Panel(own, small_mnist, fixed, [0.0, 1.0])


def test_the_caption_says_which_images_are_shown_and_what_was_certified(panel: Panel, tmp_path: Path):
    examples_figure([panel, panel], tmp_path / "a.pdf", tmp_path / "a.png", 0, Caption(tmp_path / "a.md", "Figure 6", ["Made so."]))
    text = (tmp_path / "a.md").read_text()
    assert text.startswith("**Figure 6.** Test images") and "sigma* is equal: 0, 1 at sigma 0.25; 0, 1 at sigma 0.25. Above" in text
    assert "mnist5k: 3 test images, protocol fixed" in text and text.endswith("Made so.\n")


def test_each_line_is_an_image_clean_and_with_one_noise_at_two_scales(panel: Panel, small_mnist: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(plt, "close", lambda figure: None)
    examples_figure([panel], tmp_path / "a.pdf", tmp_path / "a.png", 0)
    figure = plt.gcf()
    monkeypatch.undo()
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [
        *("clean\nclass 1", "$\\sigma = 0.250$\nabstains", "$\\sigma^*_x = 0.100$\nclass 1, $R = 0.50$"),
        *("clean\nclass 1", "$\\sigma = 0.250$\nclass 1, $R = 0.30$", "$\\sigma^*_x = 0.400$\nclass 1, $R = 0.50$"),
    ]
    images = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    split = load_split(small_mnist, "test")
    for line, idx, own in ((0, 5, 0.1), (1, 0, 0.4)):
        clean, fixed, ours = images[3 * line : 3 * line + 3]
        assert np.array_equal(clean, as_float(split.images[idx])[0])
        inner = (fixed > 0) & (fixed < 1) & (ours > 0) & (ours < 1)  # where nothing was clipped
        assert inner.sum() > 20
        assert np.allclose((fixed - clean)[inner] / 0.25, (ours - clean)[inner] / own, atol=1e-4)
    assert min(image.min() for image in images) >= 0 and max(image.max() for image in images) <= 1
    plt.close("all")


def test_pictures_repeat_and_depend_on_the_seed(panel: Panel, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        examples_figure([panel, panel], tmp_path / f"{name}.pdf", tmp_path / f"{name}.png", seed)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c and (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert not plt.get_fignums()


def test_logs_of_two_models_or_images_are_refused(panel: Panel, tmp_path: Path):
    same = [(0, 1, 1, 0.3), (5, 1, -1, 0.0), (10, 1, 2, 0.1)]
    for name, fixed, message in (
        ("sigma", write_log(tmp_path / "1", same, dataset="mnist5k", sigma0=0.5), "is of cohen-ds from sigma 0.25, but .* of cohen at 0.5"),
        ("method", write_log(tmp_path / "2", same, dataset="mnist5k", method="macer"), "of macer at 0.25; one model is needed"),
        ("images", write_log(tmp_path / "3", same[:2], dataset="mnist5k"), "other images"),
        ("dataset", write_log(tmp_path / "4", same), "has dataset"),
    ):
        with pytest.raises(DdrsError, match=message) as error:
            examples_figure([Panel(panel.log, panel.data, fixed, [0.5])], tmp_path / f"{name}.pdf", tmp_path / f"{name}.png", 0)
        assert "\n" not in str(error.value) and not (tmp_path / f"{name}.pdf").exists()
    assert not plt.get_fignums()


def test_a_log_of_more_images_than_the_dataset_has_is_one_line(panel: Panel, tmp_path: Path):
    own = log_of(tmp_path / "long", {30: 0.4})
    fixed = write_log(tmp_path / "short", [(30, 1, 1, 0.3)], dataset="mnist5k")
    with pytest.raises(DdrsError, match="idx 30 is outside mnist5k test, which has 30 images"):
        examples_figure([Panel(own, panel.data, fixed, [0.5])], tmp_path / "a.pdf", tmp_path / "a.png", 0)
