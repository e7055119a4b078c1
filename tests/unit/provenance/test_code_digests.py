"""A step's code is the definitions that it reaches: what changes its digest, and what does not."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ddrs.certification.certificates import CERTIFICATES
from ddrs.errors import DdrsError
from ddrs.experiment.jobs import WORDS
from ddrs.operations import code as operations_code
from ddrs.provenance import code
from ddrs.provenance.code import CARRIES, Code, code_digest, package
from ddrs.sigma.strategies import STRATEGIES
from ddrs.training.losses import METHODS
from ddrs.training.regimes import REGIMES

ROOT = Path(__file__).parents[3]
STEPS = [step for step in json.loads((ROOT / "workflow/code.json").read_bytes()) if step != operations_code.RULES]
READ_CELLS = {"table", "compare", "claims", "per-class"}  # the verbs that judge cells again as they read them
DIGESTED = set(STEPS) - {"page", "illustrate"}  # what they write holds digests, or is refused by one


def changed(path: str, old: str, new: str) -> set[str]:
    """The steps whose digest differs after an edit of a file of the package."""
    files, texts = package().files, package().files[path].decode()
    assert texts.count(old) == 1, (path, old)
    return differing(Code({**files, path: texts.replace(old, new).encode()}))


def differing(other: Code, steps: Mapping[str, tuple[str, ...]] | None = None) -> set[str]:
    entries = steps or {step: (step,) for step in STEPS}
    return {step for step, names in entries.items() if other.texts(*names) != package().texts(*names)}


# the real package


@pytest.mark.parametrize(
    ("path", "old", "new", "steps"),
    [
        ("sigma/search.py", "iterations: int = 900", "iterations: int = 901", {"illustrate"}),
        ("sigma/settings.py", "sigma_min: float = Field(1e-3", "sigma_min: float = Field(1e-4", {"train", "finetune", "sigma", "illustrate"}),
        ("provenance/digests.py", "hexdigest()[:16]", "hexdigest()[:15]", DIGESTED),
        ("statistics/bounds.py", "import math", "import cmath as math", None),
        ("results/pages.py", "def write_page(", "def write_page(*more, ", {"page"}),
        ("training/losses/cohen.py", 'NOISE = "gaussian"', 'NOISE = "uniform"', {"train", "finetune", "import-checkpoint"}),
    ],
)
def test_what_a_step_reaches_changes_it_alone(path: str, old: str, new: str, steps: set[str] | None):
    found = changed(path, old, new)
    assert found == steps if steps is not None else found


@pytest.mark.parametrize("path", ["files.py", "errors.py", "registry.py", "models/devices.py"])
def test_what_carries_makes_no_byte(path: str):
    text = package().files[path] + b"\nprint(1)\n"
    assert differing(Code({**package().files, path: text})) == set()


def test_the_print_is_in_what_reads_it():
    files = package().files
    found = differing(Code({**files, "results/published/tables.csv": files["results/published/tables.csv"] + b"\n"}))
    assert {"cell", "claims"} <= found <= {"cell"} | READ_CELLS
    assert differing(Code({**files, "results/published/claims.csv": files["results/published/claims.csv"] + b"\n"})) == {"claims"}
    data = [path for path in files if not path.endswith(".py")]
    assert sorted(data) == ["results/published/claims.csv", "results/published/tables.csv"], "a new data file: is it found by its name?"


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_is_in_its_own_training_alone(method: str):
    """A new method, too, trains no other; yang and cohen share a loss."""
    entries = {f"{step} {one}": (step, METHODS[one]) for step in ("train", "finetune") for one in METHODS}
    entries |= {f"import {one}": ("import-checkpoint", f"{METHODS[one]}:NOISE") for one in METHODS}
    entries |= {step: (step,) for step in set(STEPS) - {"train", "finetune", "import-checkpoint"}}
    path = package().modules[METHODS[method]]
    text = package().files[path].decode()
    if "def loss(" in text:
        edited = re.sub(r"(def loss\(.*?\) -> .*?:\n)", r"\1    more = 1\n", text, flags=re.DOTALL)
        trained = {method, "yang"} if method == "cohen" else {method}
        assert differing(Code({**package().files, path: edited.encode()}), entries) == {
            f"{step} {one}" for step in ("train", "finetune") for one in trained
        }
    assert differing(Code({**package().files, "training/losses/new.py": text.encode()}), entries) == set()


def test_words_colours_kinds_and_plans_train_search_and_certify_nothing_again():
    """Nor does another plug-in. What jobs name of their own plug-ins does."""
    plugins = {"sigma": STRATEGIES["grid"], "certify": CERTIFICATES["smoothing"], "finetune": REGIMES["ds2"]}
    taken = {"sigma": ("search", "Settings"), "certify": ("steps", "Settings"), "finetune": ("sigmas", "Settings")}
    entries = {verb: (verb, *(f"{module}:{name}" for name in taken[verb])) for verb, module in plugins.items()}
    entries["finetune"] += (METHODS["cohen"],)

    def changed_by(path: str, old: str, new: str) -> set[str]:
        text = package().files[path].decode()
        assert old in text, (path, old)
        other = Code({**package().files, path: text.replace(old, new).encode()})
        return {verb for verb, names in entries.items() if other.texts(*names, without=WORDS) != package().texts(*names, without=WORDS)}

    assert changed_by("rows.py", '"#0072B2"', '"#0072B3"') == changed_by("rows.py", "(FS, DS,", "(FS, GDS, DS,") == set()
    assert changed_by("certification/certificates/smoothing.py", 'PROMISE = "', 'PROMISE = "Other: ') == set()
    assert changed_by("sigma/strategies/grid.py", "return settings.k_max *", "return 2 * settings.k_max *") == set()
    assert changed_by("sigma/strategies/ascent.py", "def search(", "def search(*more, ") == set()
    assert changed_by("sigma/strategies/grid.py", "END = 1.0", "END = 2.0") == {"sigma"}
    assert changed_by("certification/certificates/smoothing.py", "/ 2", "/ 3") == {"certify"}
    assert changed_by("training/regimes/ds2.py", "def sigmas(", "def sigmas(*more, ") == {"finetune"}


class _Reworded(ast.NodeTransformer):
    """Other words in errors and docstrings, and other annotations of what a function returns."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        for one in ast.walk(node):
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                one.value += "other words"
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._documented(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._documented(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._documented(node)

    def _documented(self, node: ast.FunctionDef | ast.ClassDef | ast.Module) -> ast.AST:
        self.generic_visit(node)
        if ast.get_docstring(node) is not None:
            node.body[0] = ast.Expr(ast.Constant("Other words."))
        return node


def test_words_docstrings_comments_and_layout_rerun_nothing():
    files = dict(package().files)
    for path, content in files.items():
        if path.endswith(".py"):
            tree = ast.fix_missing_locations(_Reworded().visit(ast.parse(content)))
            files[path] = f"# a comment\n\n\n{ast.unparse(tree)}\n".encode()
    assert differing(Code(files)) == set()


NO_STEP = {  # modules that no step and no verb is made by, beside what carries
    "ddrs": "the public names, for users of the API",
    "ddrs.commands.main": "calls verbs, and ends what they raise in one line",
    "ddrs.operations.fitting": "refuses and marks results of another config",
    "ddrs.experiment.preflight": "refuses results of other images",
}


def imports(text: bytes, quoted: bool = True) -> set[str]:
    """All that a module may import, anywhere in it, and the modules that it names in quotes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{one.name}" for one in node.names)}
        elif quoted and isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def test_a_changed_definition_of_every_module_changes_what_can_reach_it_and_no_other():
    """Also of the verbs that are no steps, and of the rules. In most modules the definition is the first that a step reaches."""
    whole = package()
    direct = {name: imports(whole.files[path]) & set(whole.modules) for name, path in whole.modules.items()}
    for name, path in whole.modules.items():
        if b"= Folder(" in whole.files[path]:  # whose members are loaded by name
            direct[name] |= {one for one in whole.modules if one.startswith(f"{name}.")}
    entries = {verb: (verb,) for verb in whole.verbs} | {operations_code.RULES: tuple(operations_code.imported_by_rules(ROOT))}
    reached = {verb: set(whole.reached(*names)) for verb, names in entries.items()}
    closures: dict[str, set[str]] = {}
    for verb, names in entries.items():
        if verb == operations_code.RULES:
            left = [name.partition(":")[0] for name in names]
        else:
            module, function = whole.verbs[verb]
            (node,) = whole.module(module).definitions[function]
            used = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
            shared = [one for one in ast.parse(whole.files[whole.modules[module]]).body if isinstance(one, ast.ImportFrom)]
            left = [module, *(imports(ast.unparse(node).encode()) & set(whole.modules))]
            left += [str(one.module) for one in shared if one.module in whole.modules and used & {name.name for name in one.names}]
        found: set[str] = set()
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += [] if code.COMMANDS.fullmatch(name) else direct[name]
        closures[verb] = found
    unseen = set()
    for name, path in whole.modules.items():
        definitions = whole.module(name).definitions
        seen = {one for places in reached.values() for module, one in places if module == name}
        order = sorted(definitions, key=lambda one, name=name, seen=seen: (bool(whole.members((name, one))), one not in seen))
        if not order or whole.members((name, order[0])):  # it defines nothing, or a registry, of which the members count
            continue
        tree = ast.parse(whole.files[path])
        expected = {verb for verb, places in reached.items() if (name, order[0]) in places}
        tree.body = [_edited(node, definitions[order[0]]) for node in tree.body]
        other = Code({**whole.files, path: ast.unparse(ast.fix_missing_locations(tree)).encode()})
        other._known_texts = {place: text for place, text in whole._known_texts.items() if place[0] != name}  # to spare time: these are the same
        other._known_uses = {place: uses for place, uses in whole._known_uses.items() if place[0] != name}
        found = differing(other, entries)
        assert found == expected, (name, order[0])
        assert all(name in closures[verb] for verb in found), (name, found)
        if not found:
            unseen.add(name)
    assert unseen <= CARRIES | set(NO_STEP), unseen - CARRIES - set(NO_STEP)


def _edited(node: ast.stmt, chosen: list[ast.stmt]) -> ast.stmt:
    if not any(node.lineno == one.lineno for one in chosen):
        return node
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        node.body.append(ast.parse("'an edit'").body[0])
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        node.value = ast.Tuple([node.value or ast.Constant(None), ast.Constant("an edit")], ast.Load())
    return node


def test_what_carries_is_there_and_computes_nothing():
    """But for those that import torch to choose, or to note, on what a step runs."""
    assert set(package().modules) >= CARRIES
    for name in CARRIES - {"ddrs.models.devices", "ddrs.provenance.sidecar"}:
        assert not imports(package().files[package().modules[name]], quoted=False) & {"numpy", "torch"}, name


def test_modules_are_loaded_by_a_name_through_the_registry_alone():
    """Of ddrs. The command line loads verbs, `models.own` a user's module, `vision` torchvision's, and `ddrs` itself the public names."""
    found = {name for name, path in package().modules.items() if b"import_module" in package().files[path] or b"__import__" in package().files[path]}
    assert found == {"ddrs", "ddrs.commands.main", "ddrs.registry", "ddrs.models.own", "ddrs.vision"}


def test_nothing_is_imported_and_a_digest_is_the_same_in_another_process():
    words = "import sys; from ddrs.provenance.code import code_digest; print(code_digest('certify')); print([m for m in sys.modules if 'ddrs.' in m])"
    found = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True).stdout
    assert found.split("\n")[0] == code_digest("certify") and "certification" not in found


def test_an_unknown_entry_is_said_in_one_line():
    for entry in ("nothing", "ddrs.nothing", "ddrs.results.row_cells:nothing", "ddrs", "p.cells"):
        with pytest.raises(DdrsError, match="no such verb, module or definition"):
            code_digest(entry)


# the command and the written digests


def test_the_written_digests_are_those_of_this_code(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert operations_code.outdated() == [], "say `ddrs code --write workflow/code.json`"


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").write_text("from ddrs.results.pages import (\n    write_page,\n)\nrule a:\n    shell: 'x'\n")
    (tmp_path / "workflow/rules").mkdir(parents=True)
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: x, params: [{workflow/code.json: [page, rules]}, {config.yaml: [seed]}]}}")
    return tmp_path


def test_outdated_digests_are_refused_until_they_are_written(stages: Path, ddrs_cli: Callable):
    for damage in (None, "", "[]", '{"page": "0", "gone": "1"}'):
        if damage is not None:
            Path("workflow/code.json").write_text(damage)
        with pytest.raises(DdrsError, match=r"workflow/code.json: is of other code than is here \(.*`ddrs code --write workflow/code.json`"):
            operations_code.require_current()
    assert ddrs_cli("code", "--write", "workflow/code.json") == (0, "workflow/code.json: gone, page, rules changed\n", "")
    assert json.loads(Path("workflow/code.json").read_text()) == {"page": code_digest("page"), "rules": code_digest("ddrs.results.pages:write_page")}
    operations_code.require_current()
    assert ddrs_cli("code", "--write", "workflow/code.json") == (0, "workflow/code.json: nothing changed\n", "")
    (stages / "dvc.yaml").unlink()
    operations_code.require_current()
    assert ddrs_cli("code", "--write", "workflow/code.json")[2].startswith("ddrs: error: code: dvc.yaml here names no steps")


def test_a_verbs_code_is_printed_by_module(ddrs_cli: Callable):
    found, out, err = ddrs_cli("code", "page")
    assert (found, err) == (0, "") and out.splitlines()[0] == f"{code_digest('page')} page"
    assert any(line.startswith("ddrs.results.pages: ") and "write_page" in line for line in out.splitlines())
    assert ddrs_cli("code")[0] == 2 and ddrs_cli("code", "nothing")[2] == "ddrs: error: code: 'nothing': no such verb, module or definition\n"


def test_against_a_revision_the_definitions_that_differ_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ddrs_cli: Callable):
    folder = tmp_path / "src/ddrs"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text("def gone(): ...\ndef same(): ...\ndef f(): return 1, gone(), same()\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    (folder / "a.py").write_text("def new(): ...\ndef same(): ...\ndef f(): return 2, new(), same()\n")
    monkeypatch.setattr(code, "PACKAGE", folder)
    package.cache_clear()
    try:
        first, *lines = operations_code.report(["ddrs.a:f"], "HEAD").splitlines()
        assert first.endswith(" ddrs.a:f") and lines == ["added: ddrs.a:new", "removed: ddrs.a:gone", "changed: ddrs.a:f"]
        assert operations_code.report(["ddrs.a:same"], "HEAD").splitlines()[1:] == ["as in HEAD"]
        for revision in ("nothing", "--help"):
            with pytest.raises(DdrsError, match="no revision"):
                operations_code.report(["ddrs.a:f"], revision)
    finally:
        package.cache_clear()
