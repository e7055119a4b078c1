"""CONTRIBUTING.md: its example is a loss that trains."""

import re
import types
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_what_loads_by_a_name_is_said():
    package = ROOT / "src/ddrs"
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if "import import_module" in path.read_text(encoding="utf-8")}
    sentence = TEXT.partition("By a name load only")[2].partition("- Not in any digest")[0]
    assert {name.removeprefix("ddrs/") for name in re.findall(r"`([\w/]+\.py)`", sentence)} == found


def test_plugins_import_torch_in_functions_but_illustrations():
    folders = re.findall(r"`([\w/]+)/NAME\.py`", TEXT)
    assert len(folders) == 6
    files = [path for folder in folders for path in (ROOT / "src/ddrs" / folder).glob("*.py")]
    assert {path.parent.name for path in files if re.search(r"^(import|from) torch\b", path.read_text(encoding="utf-8"), re.M)} == {"illustrations"}


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
