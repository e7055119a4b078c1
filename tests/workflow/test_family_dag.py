"""configs/family.yaml: its table's DAG, counted from what it says, and what captions say of its rows."""

import itertools
import re
import shlex
from pathlib import Path

from running import ROOT, dry
from test_dag import planned

FAMILY = ROOT / "configs" / "family.yaml"
TARGETS = [f"results/{name}" for name in ("family.md", "family_selected.md", "p_lower_family.pdf")]
SPLITS, SIGMAS, K = 2, 3, 3


def test_the_dag_is_of_the_familys_rows_and_captions_say_how_each_is_made(tmp_path: Path) -> None:
    text = dry("--printshellcmds", "--configfile", FAMILY, "--", *TARGETS, folder=tmp_path, config=None).stdout
    assert planned(text) == {
        "fetch": 1,
        "train": 2 * SIGMAS,
        "finetune": SIGMAS,  # consistency
        "sigma": SPLITS * SIGMAS * 3,  # QCRS; consistency FS and DS2
        "certify": SPLITS * SIGMAS * (3 + 2 * K),  # two FS and QCRS, of one K; DS and DS2
        "remember_mnist5k": SPLITS * SIGMAS * 2,
        "remember_run_mnist5k": SPLITS * SIGMAS,  # QCRS
        **{f"cells_family{form}_mnist5k_{method}": rows for form in ("", "_selected") for method, rows in (("cohen", 2), ("consistency", 3))},
        "table": 2,
        "p_lower": 1,
    }
    commands = [shlex.split(line) for line in re.findall(r"^ *(?:Shell command: )?(ddrs .*)$", text, re.M)]
    recipes = {words[words.index("--label") + 1]: words[words.index("--recipe") + 1] for words in commands if words[1] == "cell"}
    assert recipes["cohen-qcrs"] == (
        "Models: small_cnn, 15 epochs (the paper's on CIFAR-10: 200). Search by qcrs: K = 6, n = 500, "
        "low = 0.08 / 0.12 / 0.2, high = 0.9 / 1.7 / 2, h = 0.075 / 0.15 / 0.2"
    )
    (drawn,) = ([said for flag, said in itertools.pairwise(words) if flag == "--recipe"] for words in commands if words[1] == "distribution")
    assert drawn == [f"cohen on mnist5k: {recipes['cohen-qcrs']}.", f"consistency on mnist5k: {recipes['consistency-ds2']}."]
    assert all(words in drawn[1] for words in ("; DS2 training: from epoch 4 of them on, ", ". Search: up to K = 1500 steps of 0.0001 with n = 1"))
