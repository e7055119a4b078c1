"""CONTRIBUTING.md: its example is a loss that trains."""

import re
import types
from pathlib import Path

import torch

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_example_is_a_loss_that_a_model_learns_from():
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    method = types.ModuleType("smooth_labels")
    exec(block, method.__dict__)
    settings, model = method.Settings(m=3), torch.nn.Linear(4, 2)
    x, y = torch.rand(5, 4), torch.randint(2, (5,))
    noise = torch.randn(5, method.noise_samples(settings), 4)
    found, scores = method.loss(model, x, y, noise, torch.ones(5), settings)
    found.backward()
    assert scores.shape == (15, 2) and model.weight.grad is not None and found.shape == ()
