"""What is read in the text of a package: names in all their forms, registries, and verbs."""

import pytest

from ddrs.errors import DdrsError
from ddrs.provenance.code import Code


def made_by(entry: str, **files: str) -> list[str]:
    content = {f"{path}.py": text.encode() for path, text in files.items()}
    return [":".join(place) for place in Code(content, "p").reached(entry) if place[1]]


def test_imports_are_followed_in_all_their_forms():
    forms = {
        "from p.a import f": "f()",
        "from p.a import f as g": "g()",
        "from p import a": "a.f()",
        "from p import a as b": "b.f()",
        "import p.a": "p.a.f()",
        "import p.a as b": "b.f()",
        "from .a import f": "f()",
        "from . import a": "a.f()",
        "from p.again import f": "f()",
    }
    for line, use in forms.items():
        for text in (f"{line}\ndef main():\n    {use}\n", f"def main():\n    {line}\n    {use}\n"):
            found = made_by("p.main:main", __init__="", main=text, a="def f():\n    ...\ndef unused():\n    ...\n", again="from p.a import f\n")
            assert found == ["p.a:f", "p.main:main"], text


@pytest.mark.parametrize(
    "text",
    [
        "from p.a import f\ndef main(x=f): ...",
        "from p.a import f\ndef main(x: f): ...",
        "from p.a import f\ndef main(x: 'list[f]'): ...",
        "from p.a import f\ndef main() -> 'f': ...",
        "from p.a import f\n@f\ndef main(): ...",
        "from p.a import f\nclass main(f): ...",
        "from p.a import f\nclass main:\n    f: int = f(1)",
        "from p.a import f\nclass main:\n    def method(self):\n        return lambda: [f for x in y]",
        "from p.a import f\nmain = {'x': f}",
        "from p.a import f\nmain = {}\nmain['x'] = f",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import f\ndef main(x: 'f'): ...",
        "from p.a import f\nprint(f)\ndef main(): ...",
        "from p.a import *\ndef main(): f()",
        "from p import a\ndef main(name): getattr(a, name)",
        "try:\n    from p.a import f\nexcept ImportError:\n    f = None\ndef main(): f()",
    ],
)
def test_names_are_followed_wherever_they_stand(text: str):
    assert "p.a:f" in made_by("p.main:main", __init__="", main=text, a="def f(): ...")


@pytest.mark.parametrize(
    "text",
    [
        "from p.a import f\ndef main(f): return f",
        "from p.a import f\ndef main():\n    f = 1\n    return f",
        "from p.a import f\ndef main(): return [f for f in x]",
        "from p.a import f\ndef main(): return x.f",
        "from p.a import f\ndef main(): raise ValueError(f'no {f}')",
        "from p.a import f\ndef main(): ...\ndef other(): f()",
    ],
)
def test_a_name_of_its_own_or_in_words_alone_is_not_the_modules(text: str):
    assert made_by("p.main:main", __init__="", main=text, a="def f(): ...") == ["p.main:main"]


def test_what_a_module_does_on_import_counts_with_any_of_its_definitions():
    found = made_by(
        "p.main:main",
        __init__="",
        main="from p.a import f\ndef main(): f()",
        a="import p.b\ndef f(): ...",
        b="from p.c import g\ng()",
        c="def g(): ...",
    )
    assert found == ["p.a:f", "p.c:g", "p.main:main"]


REGISTRIES = {
    "mapping": b'ALL = {"a": "p.plug.a", "b": "p.plug.b"}',
    "folder": b"from p.registry import Folder\nALL = Folder(__name__)",
    "typed folder": b"from p import registry\nALL: object = registry.Folder[int]('p.plug')",
}


@pytest.mark.parametrize("kind", REGISTRIES)
def test_of_a_registry_the_named_members_count_or_all(kind: str):
    files = {"__init__.py": b"", "plug/__init__.py": REGISTRIES[kind], "plug/a.py": b"def fa(): ...", "plug/b.py": b"def fb(): ..."}
    files |= {"main.py": b"from p.plug import ALL\ndef main(): load(ALL)", "registry.py": b"class Folder: ..."}
    whole = Code(files, "p")
    assert {"p.plug.a:fa", "p.plug.b:fb"} <= set(whole.texts("p.main:main"))
    assert set(whole.texts("p.main:main", "p.plug.a")) & {"p.plug.a:fa", "p.plug.b:fb"} == {"p.plug.a:fa"}
    more = {**whole.files, "plug/c.py": b"def fc(): ..."}
    if kind == "mapping":
        more["plug/__init__.py"] = b'ALL = {"a": "p.plug.a", "b": "p.plug.b", "c": "p.plug.c"}'
    other = Code(more, "p")
    assert other.texts("p.main:main", "p.plug.a") == whole.texts("p.main:main", "p.plug.a")
    assert "p.plug.c:fc" in other.texts("p.main:main")


CLI = """
import typer
from p.a import other
app = typer.Typer()
@app.command({name})
def do_it(x: int{annotation} = {default}):
    '''{doc}'''
    from p.a import f
    f(helper(x))
def helper(x): return x
def no_verb(): other()
"""


@pytest.mark.parametrize("place", ["cli", "commands/data"])
def test_a_verb_is_its_body_and_defaults_and_what_they_reach(place: str):
    def texts(verb: str = "do-it", **words: str) -> dict[str, str]:
        text = CLI.format(**{"name": "", "annotation": "", "default": "1", "doc": "", **words})
        files = {"__init__.py": "", f"{place}.py": text, "a.py": "def f(x): ...\ndef other(): ..."}
        return Code({path: text.encode() for path, text in files.items()}, "p").texts(verb)

    module = f"p.{place.replace('/', '.')}"
    assert set(texts()) == {f"{module}:do_it", f"{module}:helper", "p.a:f"}
    assert texts() == texts(annotation=" | None", doc="Other help.") == texts("do_it")
    assert texts() == texts("other", name="'other'") == texts("other", name="name='other'")
    assert texts() != texts(default="2")
    with pytest.raises(DdrsError, match="no such verb"):
        texts("no-verb")
