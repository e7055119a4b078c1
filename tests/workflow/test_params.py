"""A change of config reruns what it changes: settings stand in params of wildcards alone, as Snakemake records no others."""

import re

import pytest
from running import ROOT
from test_dvc import keys_read

TEXTS = {path.name: path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk"))}
UNRECORDED = {  # on purpose: no result depends on them, or they are pinned
    "runtime": {"device"},
    "fetch_flags": {"datasets"},
}


def unrecorded_functions() -> dict[str, str]:
    """The functions for params that take more than wildcards, at any depth of a file's text, by their outermost name."""
    found = {}
    for text in TEXTS.values():
        for name, body in re.findall(r"^def (\w+)(\(.*?)(?=^\S|\Z)", text, re.M | re.S):
            if re.search(r"(^|def \w+)\(wildcards, *\w", body):
                found[name] = body
        for number, (arguments, body) in enumerate(re.findall(r"lambda ([\w, ]*):(.*)", text)):
            if re.match(r"(w|wildcards), *\w", arguments):
                found[f"lambda {number}"] = body
    return found


def test_the_functions_that_snakemake_leaves_out_are_found() -> None:
    assert {"runtime", "fetch_flags", "scale_flags", "branch_flag", "flagged"} <= set(unrecorded_functions())


@pytest.mark.parametrize("name", unrecorded_functions())
def test_no_setting_stands_in_what_snakemake_leaves_out_of_its_records(name: str) -> None:
    assert keys_read(unrecorded_functions()[name]) == UNRECORDED.get(name, set())


@pytest.mark.parametrize("rule", ["table", "comparison", "claims", "per_class", "p_lower", "figure", "examples"])
def test_the_order_of_a_steps_inputs_is_recorded_beside_their_names(rule: str) -> None:
    """A table's rows and a figure's panels are in the config's order; Snakemake's record of inputs is sorted."""
    text = TEXTS["figures.smk"] + TEXTS["tables.smk"]
    block = re.search(rf"^rule {rule}:\n(.*?)(?=^\S|\Z)", text, re.M | re.S)
    assert block
    inputs = re.search(r"    input:\n((?:        .*\n)+)", block[1])
    ordered = re.search(r"        order=order\((.*)\),", block[1])
    assert inputs and ordered
    assert ordered[1] == ", ".join(re.findall(r"\w+=(.*),", inputs[1]))
