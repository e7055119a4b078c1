"""A change of config reruns what it changes: settings stand in params of wildcards alone, as Snakemake records no others."""

import inspect
import re
from types import SimpleNamespace

import pytest
import yaml
from running import ROOT, keys_read

from ddrs.experiment.graph import Graph
from ddrs.experiment.jobs import Jobs
from ddrs.experiment.load import load

TEXTS = {path.name: path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk"))}
UNRECORDED = {  # on purpose: no result depends on them, or they are pinned
    "runtime": {"device"},
    "fetch": {"datasets"},
}


def unrecorded() -> list[str]:
    """What jobs are told by functions of more than wildcards."""
    methods = inspect.getmembers(Jobs, inspect.isfunction)
    return [name for name, one in methods if {"input", "output", "threads", "resources"} & inspect.signature(one).parameters.keys()]


def test_the_functions_that_snakemake_leaves_out_are_found() -> None:
    assert {"runtime", "fetch", "scale", "shard", "branch_flag"} <= set(unrecorded())


@pytest.mark.parametrize("name", unrecorded())
def test_no_setting_stands_in_what_snakemake_leaves_out_of_its_records(name: str) -> None:
    w = SimpleNamespace(dataset="mnist5k", method="cohen", split="test", sigma="0.25", run="ds/sigma_0.25.K_300", shard="1", shards="2")
    given = {"input": SimpleNamespace(branch=["b.pt"], sigmas=["s.parquet"]), "threads": 1}
    function = getattr(Jobs(Graph(load(yaml.safe_load((ROOT / "config.yaml").read_text())))), name)
    with keys_read() as found:
        assert function(w, **{one: given[one] for one in given if one in inspect.signature(function).parameters})
    assert found == UNRECORDED.get(name, set())


@pytest.mark.parametrize("rule", ["table", "comparison", "claims", "per_class", "p_lower", "figure", "examples"])
def test_the_order_of_a_steps_inputs_is_recorded_beside_their_names(rule: str) -> None:
    """A table's rows and a figure's panels are in the config's order; Snakemake's record of inputs is sorted."""
    text = TEXTS["figures.smk"] + TEXTS["tables.smk"]
    block = re.search(rf"^(?:use rule \w+ as {rule} with|rule {rule}):\n(.*?)(?=^\S|\Z)", text, re.M | re.S)
    assert block
    inputs = re.search(r"    input:\n((?:        .*\n)+)", block[1])
    ordered = re.search(r"        order=order\((.*)\),", block[1])
    assert inputs and ordered
    assert ordered[1] == ", ".join(re.findall(r"\w+=(?:ancient\()?([\w.]+)\)?,", inputs[1]))
