"""configs/macer-n1.yaml and configs/paper-macer-n1.yaml: MACER's n = 1 beside n = 8, which differ in n alone and share no path."""

import re
from collections.abc import Callable
from functools import cache

import pytest
from running import ROOT, dry
from test_dag import planned

from ddrs.experiment.load import load
from ddrs.operations.overlays import merge, read, read_all

CONFIGS = {  # the config of n = 8, the overlay, both datasets, and the steps whose n differs
    "embedded": ([], "macer-n1", "mnist5k", "mnist5k-ds2-n1", ["finetune"]),  # config.yaml searches with n = 1
    "paper": (["paper"], "paper-macer-n1", "cifar10", "cifar10-macer-n1", ["finetune", "sigma"]),
}
TARGETS = [f"results/{name}" for name in ("table3.md", "table3_selected.md", "figure5.png")]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What Snakemake would run for TARGETS under some overlays, asked once."""
    folder = tmp_path_factory.mktemp("n1")

    @cache
    def asked(*names: str) -> str:
        overlays = ["--configfile", *(ROOT / f"configs/{name}.yaml" for name in names)] if names else []
        return dry("--printshellcmds", *overlays, "--", *TARGETS, folder=folder, config=None).stdout

    return asked


def of(name: str, text: str) -> set[str]:
    """The commands that are of one dataset, as the place of their log says."""
    return {line for line in re.findall(r"^ *(?:Shell command: )?(ddrs .*)$", text, re.M) if re.search(rf"> logs/.*/{name}[/.]", line)}


def samples(lines: set[str], verb: str) -> set[str]:
    return {re.search(r" --samples (\d+)", line)[1] for line in lines if line.startswith(f"ddrs {verb} ")}  # type: ignore[index]


def uncaptioned(line: str) -> str:
    """The command of a row's cells without how its models and sigmas were made, where n stands too."""
    return re.sub(r" --recipe .*?(?= --seed)", "", line)


@pytest.mark.parametrize("which", CONFIGS)
def test_n_alone_differs_and_no_path_is_shared(which: str, commands: Callable[..., str]) -> None:
    below, overlay, eight, one, steps = CONFIGS[which]
    text, before = commands(*below, overlay), commands(*below)
    theirs, ours = of(eight, text), of(one, text)
    assert theirs == of(eight, before) and one not in before
    assert not any(f"/{eight}/" in line for line in ours) and not any(one in line for line in theirs)
    for verb in ("finetune", "sigma"):
        assert samples(theirs, verb) == {"8" if verb in steps else "1"} and samples(ours, verb) == {"1"}
    captions = {said[1] for line in ours if (said := re.search(r" --recipe (.*?) --seed", line))}
    assert captions and all("with n = 1 (the paper: 8) in each" in said for said in captions)
    changed = {uncaptioned(line).replace(" --samples 8 ", " --samples 1 ") for line in theirs}
    assert {uncaptioned(line).replace(one, eight) for line in ours} == changed and len(ours) == len(theirs)


@pytest.mark.parametrize("which", CONFIGS)
def test_the_dag_is_of_table_3_with_both(which: str, commands: Callable[..., str]) -> None:
    below, overlay, eight, one, _ = CONFIGS[which]
    paths = [ROOT / f"configs/{name}.yaml" for name in (*below, overlay)]
    settings = load(merge(read(ROOT / "config.yaml"), read_all(paths)))
    assert {table: names for table, names in settings.tables.items() if names} == {"table3": [eight, one]}
    assert not any(getattr(settings.figures, f"figure{number}") for number in "6789")
    own, certify = settings.datasets[one], settings.certify[one]
    splits, sigmas = len(own.images), len(own.sigmas)
    certificates = splits * sigmas * (1 + 2 * len(certify.k))  # fs; ds and ds2 with every K
    certified = {"certify": certificates} if certify.shards == 1 else {"certify_shard": certify.shards * certificates, "merge": certificates}
    each = {"fetch": 1, "train": sigmas, "finetune": sigmas, "sigma": splits * sigmas * 2, **certified}
    assert planned(commands(*below, overlay)) == {
        **{rule: 2 * count for rule, count in each.items()},
        **{f"remember_{name}": splits * sigmas * 2 for name in (eight, one)},
        **{f"cells_table3{form}_{name}": 3 for form in ("", "_selected") for name in (eight, one)},
        "table": 2,
        "figure": 1,
    }
