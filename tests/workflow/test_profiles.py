"""What the profiles make of a command line: where jobs run, how many GPUs are in use at once, what each job asks for."""

import re
from pathlib import Path
from unittest import mock

import pytest
import yaml
from running import ROOT, dry
from snakemake.cli import parse_args
from snakemake.profiles import ProfileConfigFileParser
from snakemake.workflow import Workflow

DEFAULT = ROOT / "profiles/default/profile.yaml"
SLURM = ROOT / "profiles/slurm/profile.yaml"


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell in the project's folder, without what a cluster or a user's own set-up would add."""
    monkeypatch.chdir(ROOT)
    for name in ("SNAKEMAKE_PROFILE", "SBATCH_PARTITION", "SBATCH_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)


def parsed(*words: str):  # type: ignore[no-untyped-def]
    """What Snakemake understands."""
    return parse_args(["--cores", "all", *words, "--", "models"])[1]


def gpus(args) -> int | None:  # type: ignore[no-untyped-def]
    return args.resources["gpu"].value if "gpu" in args.resources else None


def test_one_machine_runs_one_gpu_job_at_a_time_unless_told_otherwise() -> None:
    assert (parsed().executor, gpus(parsed())) == (None, 1)
    assert gpus(parsed("--resources", "gpu=4")) == 4


@pytest.mark.parametrize("by_environment", [False, True])
def test_the_cluster_is_a_flag_or_a_variable_and_not_throttled_to_one_gpu(monkeypatch: pytest.MonkeyPatch, by_environment: bool) -> None:
    """The variable is for `dvc repro`, whose command is the same on every host; with it the default profile loads, too."""
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "profiles/slurm") if by_environment else None
    args = parsed() if by_environment else parsed("--workflow-profile", "profiles/slurm")
    assert args.executor == "slurm" and gpus(args) == 100 and args.jobs == 200 and args.slurm_requeue and args.retries == 2


def test_partition_and_account_are_slurms_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """As text, whatever they look like to Python."""

    def read() -> list[str]:
        return ProfileConfigFileParser().parse(SLURM.open())["default-resources"]

    assert read() == ["mem_mb=4000", "runtime=60"]
    monkeypatch.setenv("SBATCH_PARTITION", "all")
    monkeypatch.setenv("SBATCH_ACCOUNT", "123")
    assert read() == ["mem_mb=4000", "runtime=60", "slurm_partition='all'", "slurm_account='123'"]


def test_the_profile_names_rules_that_exist_and_every_long_one() -> None:
    rules = set(
        re.findall(r"^(?:rule|use rule \w+ as) (\w+)", "\n".join(path.read_text() for path in Path("workflow/rules").glob("*.smk")), re.MULTILINE)
    )
    named = yaml.safe_load(re.sub(r"^ *\?if .*\n.*\n", "", SLURM.read_text(), flags=re.MULTILINE))["set-resources"]
    gpu_rules = {"train", "finetune", "sigma", "certify", "certify_shard"}
    assert gpu_rules <= set(named) <= rules
    assert all(set(own) == {"mem_mb", "runtime"} for own in named.values())


def test_what_the_machine_that_submits_does_itself(tmp_path: Path) -> None:
    """Tables, figures and pages are no jobs of a cluster; a rule that shares another's shell does not inherit that."""
    found: set[str] = set()
    load = Workflow.check_localrules

    def noted(workflow: Workflow) -> None:
        found.update(name for name in workflow._localrules if not name.startswith("cells_"))
        load(workflow)

    with mock.patch.object(Workflow, "check_localrules", noted):
        dry("figures", folder=tmp_path)
    assert found == {"merge", "table", "comparison", "claims", "per_class", "p_lower", "page", "picture", "figure", "examples", "illustrate"}
