"""DVC's three coarse stages cover exactly what Snakemake makes, and know all that it reads."""

import re
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from running import ROOT, dry, keys_read
from snakemake.rules import Rule

from ddrs.experiment.graph import Graph
from ddrs.experiment.jobs import Jobs
from ddrs.experiment.load import load
from ddrs.operations.overlays import OUTPUT, fitted, merge, read_all
from ddrs.rows import TABLES

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def outs(stage: str) -> list[str]:
    return [next(iter(out)) if isinstance(out, dict) else out for out in STAGES[stage]["outs"]]


def covers(places: list[str], path: str) -> bool:
    return any(path == place or path.startswith(place + "/") for place in places)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every output of the shipped config's DAG, and the rule that makes it."""
    text = dry("--summary", "paper", folder=tmp_path_factory.mktemp("summary"), config=None).stdout
    lines = [line.split("\t") for line in text.splitlines()]
    head = next(line for line in lines if line[0] == "output_file")
    return {line[0]: line[head.index("rule")] for line in lines if len(line) == len(head) and line is not head}


def stage_of(path: str) -> list[str]:
    return [stage for stage in STAGES if covers(outs(stage), path)]


VERBS = {"cells": "cell", "comparison": "compare", "p_lower": "distribution", "picture": "page"}  # of steps that are called otherwise


def step_of(rule: str) -> str:
    """The step of a rule that is one of several, for a dataset or a table."""
    return re.sub(r"(_table\d(_selected)?|_run)?_mnist5k$", "", rule)


def test_every_output_under_results_is_in_exactly_one_stage(outputs: dict[str, str]) -> None:
    results = [path for path in outputs if path.startswith("results/")]
    assert len(results) > 150
    for path in results:
        assert len(stage_of(path)) == 1, path


def test_no_stage_owns_what_no_rule_makes(outputs: dict[str, str]) -> None:
    for stage in STAGES:
        for place in outs(stage):
            assert any(covers([place], path) for path in outputs), place


OVERLAYS = [("fashion",), ("pretrained",), ("macer-n1",), ("family",), ("paper", "selection"), ("paper", "paper-macer-n1")]


@pytest.mark.parametrize("overlays", OVERLAYS, ids="-".join)
def test_after_use_a_stage_owns_what_the_overlay_makes(overlays: tuple[str, ...], tmp_path: Path) -> None:
    paths = [ROOT / f"configs/{name}.yaml" for name in overlays]
    settings = load(merge(yaml.safe_load((ROOT / "config.yaml").read_text()), read_all(paths)))
    for name, methods in settings.checkpoints.items():
        for method, own in methods.items():
            for sigma in settings.sigma_texts(name, method):
                (tmp_path / own.path(sigma)).parent.mkdir(parents=True)
                (tmp_path / own.path(sigma)).touch()
    text = dry("--configfile", *paths, "--summary", "--", "paper", folder=tmp_path, config=None).stdout
    made = [line.split("\t")[0] for line in text.splitlines() if line.startswith("results/")]
    stages = yaml.safe_load(fitted((ROOT / "dvc.yaml").read_text(), settings))["stages"]
    assert len(made) > 150
    kept = [place for stage in stages.values() for out in stage["outs"] for place in out]
    assert all(covers(kept, path) for path in made)
    assert [place for place in kept if not any(covers([place], path) for path in made)] == []


def test_a_stage_refuses_outputs_that_the_config_does_not_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC would store what lies there as of this config."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.setenv("DVC_STAGE", "models")
    done = dry("models", folder=tmp_path, config=ROOT / "configs/fashion.yaml", check=False)
    assert done.returncode != 0
    assert "ddrs: error: dvc.yaml: lists results/captions/figure6.md, which config.yaml does not make; `ddrs use config.yaml`" in done.stderr


def test_every_table_has_its_outputs_listed_made_or_not() -> None:
    settings = load(yaml.safe_load((ROOT / "config.yaml").read_text()))
    graph = Graph(settings.model_copy(update={"tables": {table: ["mnist5k"] for table in TABLES}}))
    listed = {line[3] for line in OUTPUT.finditer((ROOT / "dvc.yaml").read_text())}
    pictures = [f"results/captions/p_lower_{table}.md" for table in TABLES]
    missing = [path for path in [*graph.tables(), *pictures] if path not in listed]
    assert not missing, "outs of dvc.yaml"


def test_outs_persist_and_commands_are_the_same_on_every_host() -> None:
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"snakemake --cores all {name}"
        assert all(isinstance(out, dict) and next(iter(out.values())) == {"persist": True} for out in stage["outs"])


def test_the_steps_that_a_layer_runs_are_in_its_params_and_its_rule_files_in_its_deps(outputs: dict[str, str]) -> None:
    ran: dict[str, set[str]] = {stage: {"rules"} for stage in STAGES}
    for path, rule in outputs.items():
        for stage in stage_of(path):
            assert covers(STAGES[stage]["deps"], "workflow/rules/common.smk") and covers(STAGES[stage]["deps"], "Snakefile")
            step = step_of(rule)
            declared = rf"(rule {step}:| as {step} with:|\b{step}\.rule\b)"
            (where,) = (p.name for p in (ROOT / "workflow/rules").glob("*.smk") if re.search(declared, p.read_text()))
            assert f"workflow/rules/{where}" in STAGES[stage]["deps"]
            ran[stage].add(VERBS.get(step, step.replace("_", "-")))
    others = {"fetch", "merge", "import-checkpoint"}
    assert {stage: params(stage, "workflow/code.json") | others for stage in STAGES} == {stage: steps | others for stage, steps in ran.items()}


def test_steps_that_the_shipped_config_does_not_run_are_in_params_too() -> None:
    assert "merge" in params("certificates", "workflow/code.json")
    assert {"fetch", "import-checkpoint"} <= params("models", "workflow/code.json")


def test_a_stage_refuses_to_run_code_that_was_not_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dvc.yaml", "Snakefile"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    monkeypatch.setenv("DVC_STAGE", "models")
    written = tmp_path / "workflow/code.json"
    written.write_text(re.sub(r'("train": ")\w+', r"\g<1>0", written.read_text()))
    done = dry("models", folder=tmp_path, config=None, check=False)
    assert done.returncode != 0
    assert "ddrs: error: workflow/code.json: is of other code than is here (train); `ddrs code --write workflow/code.json` puts" in done.stderr


def test_what_a_rule_reads_of_the_config_is_said(tmp_path: Path) -> None:
    """`Jobs.reads` against what the functions of each rule ask the config for, while all jobs of the shipped config are planned."""
    found: dict[str, set[str]] = {}
    apply = Rule.apply_input_function

    def noted(rule: Rule, *args: Any, **options: Any) -> Any:
        with keys_read() as read:
            result = apply(rule, *args, **options)
        found.setdefault(step_of(rule.name), set()).update(read)
        return result

    with mock.patch.object(Rule, "apply_input_function", noted):
        dry("--forceall", "paper", folder=tmp_path, config=None)
    assert len(found) > 15
    for step, read in found.items():
        assert read - {"device"} <= Jobs.reads.get(step, set()), step


def test_the_config_keys_that_a_layer_reads_are_in_its_params(outputs: dict[str, str]) -> None:
    for path, rule in outputs.items():
        for stage in stage_of(path):
            assert Jobs.reads[step_of(rule)] <= params(stage), (stage, rule)


@pytest.mark.parametrize("stage", STAGES)
def test_the_config_keys_that_a_target_reads_are_in_its_params(stage: str) -> None:
    graph = Graph(load(yaml.safe_load((ROOT / "config.yaml").read_text())))
    targets = {"models": [graph.models], "certificates": [graph.certificates], "paper": [graph.tables, graph.figures]}
    with keys_read() as found:
        assert all(target() for target in targets[stage])
    assert found and found <= params(stage)


def params(stage: str, file: str = "config.yaml") -> set[str]:
    return {key for entry in STAGES[stage]["params"] for key in entry.get(file, [])}


def test_results_are_dvcs_not_gits() -> None:
    assert "/results/" in (ROOT / ".gitignore").read_text().splitlines()
