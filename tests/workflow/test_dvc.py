"""DVC's three coarse stages cover exactly what Snakemake makes, and know all that it reads."""

import ast
import re
import shutil
from pathlib import Path

import pytest
import yaml
from running import ROOT, dry

from ddrs.config import load
from ddrs.overlays import fitted, merge, read_all
from ddrs.provenance import MODEL
from ddrs.training.losses import METHODS

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
COMMON, SHOWN = ((ROOT / f"workflow/rules/{name}.smk").read_text() for name in ("common", "shown"))


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


def test_every_output_under_results_is_in_exactly_one_stage(outputs: dict[str, str]) -> None:
    results = [path for path in outputs if path.startswith("results/")]
    assert len(results) > 150
    for path in results:
        assert len(stage_of(path)) == 1, path


def test_no_stage_owns_what_no_rule_makes(outputs: dict[str, str]) -> None:
    for stage in STAGES:
        for place in outs(stage):
            assert any(covers([place], path) for path in outputs), place


OVERLAYS = [("fashion",), ("pretrained",), ("macer-n1",), ("paper", "selection"), ("paper", "paper-macer-n1")]


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


def test_outs_persist_and_commands_are_the_same_on_every_host() -> None:
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"snakemake --cores all {name}"
        assert all(isinstance(out, dict) and next(iter(out.values())) == {"persist": True} for out in stage["outs"])


def test_the_modules_that_a_layer_runs_are_in_its_deps(outputs: dict[str, str]) -> None:
    code = steps_code()
    for path, rule in outputs.items():
        for stage in stage_of(path):
            assert covers(STAGES[stage]["deps"], "workflow/rules/common.smk") and covers(STAGES[stage]["deps"], "Snakefile")
            step = re.sub(r"(_table\d(_selected)?|_run)?_mnist5k$", "", rule)
            for module in code[step]:
                assert covers(STAGES[stage]["deps"], f"src/ddrs/{module}"), (stage, module)
            declared = rf'(rule {rule}:|f"{step}(_\{{table\}}|\{{suffix\}})?_\{{name\}}")'
            where = next(p for p in (ROOT / "workflow/rules").glob("*.smk") if re.search(declared, p.read_text()))
            assert f"workflow/rules/{where.name}" in STAGES[stage]["deps"]


def steps_code() -> dict[str, list[str]]:
    """CODE of common.smk: the modules of each step."""
    block = re.search(r"^TRAINING = .*?^CODE = \{.*?^\}", COMMON, re.M | re.S)
    assert block
    names: dict = {"MODEL": MODEL}
    exec(block[0], names)
    return names["CODE"]


UNUSED = {  # imported by a module of the step, for other steps' sake
    "table": {"certification/records", "certification/bounds", "selection", "verdicts"},
    "comparison": {"certification/records", "certification/bounds", "selection", "published/checks"},
    "claims": {"certification/records", "certification/bounds", "selection"},
    "per_class": {"certification/bounds", "verdicts"},
    "p_lower": {"certification/bounds", "published", "verdicts"},
    "figure": {"certification/bounds", "published", "selection", "verdicts"},
    "examples": {"certification/bounds"},
    "illustrate": {"architectures"},  # its models are given by formulas
}
FOLDERS = {"training/losses", "training/regimes", "sigma/strategies"}  # of plug-ins: their names alone
INFRASTRUCTURE = {"config", "errors", "files", "options", "provenance", "registry", *FOLDERS}


def imports(module: Path) -> set[str]:
    """The ddrs modules that a module imports, anywhere in it, as paths below the package."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddrs"):
            base = node.module.split(".")[1:]
            for alias in node.names:
                parts = [*base, alias.name] if (ROOT / "src/ddrs" / Path(*base, alias.name)).with_suffix(".py").is_file() else base
                found.add("/".join(parts))
    return found


def test_a_steps_code_has_every_module_that_its_modules_import() -> None:
    """But those that only carry the work: argument parsing, file names, error texts. (A method's own file is added per job.)"""
    for step, modules in steps_code().items():
        for module in [m for m in modules if m.endswith(".py") or m == "illustrations"]:
            path = ROOT / "src/ddrs" / module
            for name in {name for one in (path.glob("*.py") if path.is_dir() else [path]) for name in imports(one)} - INFRASTRUCTURE:
                listed = {f"{name}.py", f"{name}/__init__.py", name.partition("/")[0]} & set(modules)
                assert listed or name in UNUSED.get(step, ()), (step, module, name)


def test_a_methods_own_file_is_all_that_is_added_per_job() -> None:
    """But for what it imports of another method's: a change of cohen.py trains cohen and yang again, and no other."""
    shared = ast.literal_eval(re.findall(r"^SHARED = (\{.*?\})", COMMON, re.M)[0])
    for method, module in METHODS.items():
        found = {f"{name}.py" for name in imports(ROOT / "src" / Path(*module.split(".")).with_suffix(".py")) - INFRASTRUCTURE}
        assert found - set(steps_code()["train"]) == set(shared.get(method, [])), method


def keys_read(text: str) -> set[str]:
    """The top-level config keys that rules read, through all that they name of common.smk and shown.smk: functions, and lists made there."""
    defined = {m[1]: m[0] for m in re.finditer(r"^def (\w+)\(.*?(?=^\S|\Z)", COMMON + SHOWN, re.M | re.S)}
    defined |= {m[1]: m[0] for m in re.finditer(r"^(\w+) = .*", COMMON + SHOWN, re.M)}
    seen: set[str] = set()
    while new := {name for name in defined if re.search(rf"\b{name}\b", text)} - seen:
        seen |= new
        text += "".join(defined[name] for name in new)
    named = set(re.findall(r"settings\.(\w+)", text))
    methods = {"on": {"datasets"}, "search_on": {"search"}, "sigma_texts": {"datasets"}, "finetune_settings": {"finetune", "train"}}
    of_captions = {"checkpoints", "datasets", "finetune", "search", "train"} if re.search(r"\bmade\(settings", text) else set()
    return of_captions | {key for name in named for key in methods.get(name, {name})}


def test_keys_are_read_through_functions_of_both_files_and_through_lists() -> None:
    assert {"datasets", "figures", "search", "tables"} <= keys_read("logs=logs_of_figure,")
    assert "finetune" in keys_read("made=made_of_figure,")
    assert {"certify", "datasets"} <= keys_read("dataset=one_of(whole_datasets),") | keys_read("certified_datasets")


@pytest.mark.parametrize(
    ("rule_file", "stage"),
    [
        ("train", "models"),
        ("sigma", "certificates"),
        ("certify", "certificates"),
        ("tables", "paper"),
        ("figures", "paper"),
        ("memory", "certificates"),
    ],
)
def test_the_config_keys_that_a_layer_reads_are_in_its_params(rule_file: str, stage: str) -> None:
    assert keys_read((ROOT / f"workflow/rules/{rule_file}.smk").read_text()) <= params(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_the_config_keys_that_a_target_reads_are_in_its_params(stage: str) -> None:
    rule = re.search(rf"^rule {stage}:.*?(?=^rule |\Z)", (ROOT / "Snakefile").read_text(), re.M | re.S)
    assert rule and keys_read(rule[0]) <= params(stage)


def params(stage: str) -> set[str]:
    return {
        "device",
        *(key for entry in STAGES[stage]["params"] for key in entry["config.yaml"]),
    }  # a result of another device stands, and says the device itself


def test_results_are_dvcs_not_gits() -> None:
    assert "/results/" in (ROOT / ".gitignore").read_text().splitlines()
