"""Figures 1 and 2: what they claim is recomputed here from the run that they draw."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from ddrs.certification.engine import certify
from ddrs.errors import DdrsError
from ddrs.figures.illustrations import SUBJECTS, illustrate, memory, sigma
from ddrs.figures.illustrations._plane import ALPHA, N, Plane, make_plane
from ddrs.memory.memory import Memory


@pytest.fixture(scope="module")
def plane() -> Plane:
    return make_plane(0)


def test_the_plane_repeats_and_leaves_the_callers_generator_alone(plane: Plane):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = make_plane(0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(again.sigmas, plane.sigmas) and torch.equal(again.x, plane.x)
    assert all(torch.equal(a, b) for a, b in zip(again.model.state_dict().values(), plane.model.state_dict().values(), strict=True))
    with torch.no_grad():
        assert (plane.model(plane.x).argmax(1).numpy() == plane.labels).mean() > 0.97, "the classifier itself is right"


def test_figure_1_shows_what_the_paper_says(plane: Plane):
    """x1 gains from a larger sigma, x2 from a smaller one, and x3 is wrong at the fixed one."""
    three = sigma.three_inputs(plane)
    x, sigmas = plane.x[torch.from_numpy(three)], plane.sigmas[three]
    fixed = certify(plane.model, x, sigma.FIXED, n=N, alpha=ALPHA)
    ours = certify(plane.model, x, sigmas, n=N, alpha=ALPHA)
    assert (plane.labels[three] == 0).all() and (np.asarray(ours.prediction) == 0).all()
    assert np.asarray(fixed.prediction).tolist() == [0, 0, 1]
    assert sigmas[0] > sigma.FIXED > sigmas[1] and sigmas[2] < sigma.FIXED
    gain = np.asarray(ours.radius) - np.asarray(fixed.radius)
    assert gain[0] > 0.1 and gain[1] > 0.03 and np.asarray(ours.radius)[2] > 0.1


def test_figure_2_shows_the_three_cases_of_the_memory(plane: Plane):
    found = memory.three_cases(plane)
    assert list(found) == ["kept", "adopted", "shrunk"]
    for case, one in found.items():
        pair = plane.x[torch.tensor([one.first, one.second])]
        certified = certify(plane.model, pair, plane.sigmas[[one.first, one.second]], n=N, alpha=ALPHA)
        assert tuple(np.asarray(certified.prediction)) == one.classes and tuple(np.asarray(certified.radius)) == one.radii
        store = Memory()
        for x, label, radius in zip(pair.numpy(), one.classes, one.radii, strict=True):
            stored = store.insert(x, label, radius)
        assert stored == one.stored and one.first < one.second
        distance = float(np.linalg.norm(pair[0].numpy().astype(np.float64) - pair[1].numpy()))
        assert distance < sum(one.radii), "the balls meet"
        if case == "kept":
            assert one.classes[0] == one.classes[1] and stored == (one.classes[1], one.radii[1])
        elif case == "adopted":
            assert one.classes[0] != one.classes[1] and stored[0] == one.classes[0] and distance < one.radii[0]
            assert 0 < stored[1] <= one.radii[0] - distance + 1e-12 and stored[1] < one.radii[1]
        else:
            assert stored[0] == one.classes[1] != one.classes[0] and distance > one.radii[0]
            assert stored[1] == pytest.approx(distance - one.radii[0]) and 0 < stored[1] < one.radii[1]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_pictures_repeat(subject: str, plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddrs.figures.illustrations._plane.make_plane", lambda seed: plane)
    monkeypatch.setattr("ddrs.figures.illustrations._plane.N", 500)  # the picture's own n takes seconds
    for name in ("a", "b"):
        illustrate(subject, tmp_path / f"{name}.pdf", tmp_path / f"{name}.png")
    for form in ("pdf", "png"):
        assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()
    assert not plt.get_fignums()


def test_what_cannot_be_drawn_is_one_line(plane: Plane, tmp_path: Path):
    with pytest.raises(DdrsError, match="subject 'radius': unknown; known are memory, sigma"):
        illustrate("radius", tmp_path / "a.pdf", tmp_path / "a.png")
    far = Plane(plane.model, torch.tensor([[-2.0, 0.0], [-2.5, 0.0]]), np.array([0, 0]), np.array([0.1, 0.1], np.float32), 7)
    with pytest.raises(DdrsError, match="with seed 7 there is no input whose radius a larger sigma would raise; try another seed"):
        sigma.three_inputs(far)
    with pytest.raises(DdrsError, match="with seed 7 there is no pair of inputs that is adopted; try another seed"):
        memory.three_cases(far)
