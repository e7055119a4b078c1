"""configs/fashion.yaml: its DAG, counted from what it says, and nothing of the embedded suite beside it."""

import re
from pathlib import Path

import yaml
from running import ROOT, dry
from test_dag import planned

FASHION = ROOT / "configs" / "fashion.yaml"
SPLITS, SIGMAS, K, METHODS, WITH_DS2, PANELS = 2, 3, 3, 4, 3, 1  # of Figure 7 with a DS2 model: K = 0 beside the runs of the tables
SEARCHED = METHODS + WITH_DS2


def test_the_dag_is_of_fashion_mnist_alone(tmp_path: Path) -> None:
    text = dry("--printshellcmds", "--", "paper", folder=tmp_path, config=FASHION).stdout
    assert "mnist5k" not in text
    assert planned(text) == {
        "fetch": 1,
        "train": SIGMAS * METHODS,
        "finetune": SIGMAS * WITH_DS2,
        "sigma": SPLITS * SIGMAS * SEARCHED,
        "certify": SPLITS * SIGMAS * (METHODS + K * SEARCHED) + PANELS,
        "remember_fashion_mnist": SPLITS * SIGMAS * SEARCHED,
        "remember_run_fashion_mnist": PANELS,
        **{f"cells_table{table}{form}_fashion_mnist": 2 if table == 4 else 3 for table in (1, 2, 3, 4) for form in ("", "_selected")},
        "table": 8,
        "comparison": 4,
        "claims": 1,
        "per_class": 4,
        "page": 4 * 4 + 1,
        "p_lower": 4,
        "picture": 4 + 6,
        "figure": 4,  # 3, 4, 5 and 7
        "illustrate": 2,  # 1 and 2, which are of no dataset
        "paper": 1,
    }
    (fetch,) = set(re.findall(r"ddrs fetch (.*) > ", text))
    assert fetch == "fashion_mnist --out data/fashion_mnist/manifest.json --kind fashion_mnist --images test=200 --images validation=100"


def test_ds2_training_reaches_as_far_as_the_search() -> None:
    """Steps per run times their size: as many units as the search's k_max steps."""
    config = yaml.safe_load(FASHION.read_text())
    train, tuned, search = config["train"]["fashion_mnist"], config["finetune"]["fashion_mnist"], config["search"]["fashion_mnist"]
    epochs = {"cohen": train["cohen"]["epochs"] - train["cohen"]["branch_epoch"]}
    epochs |= {method: tuned[method]["train"]["epochs"] for method in ("smoothadv", "macer")}
    for method, count in epochs.items():
        assert abs(count * tuned[method]["step"]["step_size"] - search["k_max"] * search["step_size"]) < 0.01, method
