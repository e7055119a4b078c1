"""The text of a module as its definitions, what each of them reads, and what of it changes a result. Nothing is imported."""

import ast
import re
import symtable
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property

COMMANDS = re.compile(r"\w+\.(cli|commands\..+)")  # modules whose functions are verbs


class Reading:
    """One definition, or other statement of a module: its text without what changes no result, and the names in it that stand for something else.

    Silent are docstrings, comments and layout, the words of errors, help texts, and annotations of parameters, which are followed all the same:
    a settings class stands there. The text is that of no Python version: what a node does not have is left out.
    """

    def __init__(self, node: ast.stmt, package: str, verb: bool = False):
        self.node, self.verb = node, verb
        self.words: list[str] = []
        self.chains: set[str] = set()  # names with their attributes, as loop.Run
        self.outside: set[str] = set()  # those that are read outside of functions: defaults, decorators, annotations, bases
        self.strings: set[str] = set()
        self.inner = Imports(package)  # what the definition imports itself
        self._read(node, False)

    def _read(self, value: object, silent: bool) -> None:
        if isinstance(value, list):
            self.words.append("[")
            for one in value:
                self._read(one, silent)
            self.words.append("]")
        elif not isinstance(value, ast.AST):
            self.words.append(ascii(value))
        elif special := SPECIAL.get(type(value)):
            special(self, value, silent)
        else:
            self._fields(value, silent)

    def _fields(self, node: ast.AST, silent: bool, but: tuple[str, ...] = ()) -> None:
        self.words.append(f"({type(node).__name__}")
        for name, value in ast.iter_fields(node):
            if value is not None and value != [] and name not in ("ctx", "type_comment", "kind", *but):
                self.words.append(name)
                self._read(value, silent)
        self.words.append(")")

    def _follow(self, *nodes: ast.AST | None, quoted: bool = False) -> None:
        """Read for the names alone, as what is outside of functions. quoted: names may stand in quotes, as in annotations."""
        words, chains, self.words, self.chains = self.words, self.chains, [], self.outside
        for node in nodes:
            if node is not None:
                self._read(node, False)
                for one in ast.walk(node) if quoted else ():
                    if isinstance(one, ast.Constant) and isinstance(one.value, str):
                        with suppress(SyntaxError):
                            self._read(ast.parse(one.value, mode="eval"), False)
        self.words, self.chains = words, chains

    def _read_constant(self, node: ast.Constant, silent: bool) -> None:
        text = isinstance(node.value, str)
        if text:
            self.strings.add(str(node.value))
        self.words.append("''" if text and silent else ascii(node.value))

    def _read_joinedstr(self, node: ast.JoinedStr, silent: bool) -> None:
        if silent:
            self.words.append("''")
        else:
            self._fields(node, silent)

    def _read_name(self, node: ast.Name, silent: bool) -> None:
        self.words.append(node.id)
        self.chains.add(node.id)

    def _read_attribute(self, node: ast.Attribute, silent: bool) -> None:
        parts, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            parts, root = [root.attr, *parts], root.value
        if not isinstance(root, ast.Name):
            return self._fields(node, silent)
        self.words.append(f"{root.id}.{'.'.join(parts)}")
        self.chains.add(f"{root.id}.{'.'.join(parts)}")

    def _read_call(self, node: ast.Call, silent: bool) -> None:
        if last(node.func) in ("Field", "Option", "Argument"):
            keywords = [one for one in node.keywords if one.arg not in ("help", "description")]
            node = ast.Call(node.func, node.args, keywords)
        self._fields(node, silent)

    def _read_raise(self, node: ast.Raise, silent: bool) -> None:
        self._fields(node, True, ("cause",))

    def _read_assert(self, node: ast.Assert, silent: bool) -> None:
        self._fields(node, silent, ("msg",))

    def _read_arg(self, node: ast.arg, silent: bool) -> None:
        self.words.append(node.arg)
        self._follow(None if self.verb else node.annotation, quoted=True)

    def _read_annassign(self, node: ast.AnnAssign, silent: bool) -> None:
        self._follow(node.annotation, quoted=True)
        self._fields(node, silent)

    def _read_functiondef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, silent: bool) -> None:
        if isinstance(node, ast.ClassDef):
            self._follow(*node.decorator_list, *node.bases, *node.keywords)
        else:
            self._follow(*node.args.defaults, *node.args.kw_defaults, *([] if self.verb else node.decorator_list))
            self._follow(None if self.verb else node.returns, quoted=True)
        left_out = ("returns", "body", "decorator_list") if self.verb else ("returns", "body")
        self._fields(node, silent, left_out)
        self._read(node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body, silent)

    def _read_import(self, node: ast.Import | ast.ImportFrom, silent: bool) -> None:
        self.inner.take(node)


SPECIAL: dict[type[ast.AST], Callable[..., None]] = {
    ast.Constant: Reading._read_constant,
    ast.JoinedStr: Reading._read_joinedstr,
    ast.Name: Reading._read_name,
    ast.Attribute: Reading._read_attribute,
    ast.Call: Reading._read_call,
    ast.Raise: Reading._read_raise,
    ast.Assert: Reading._read_assert,
    ast.arg: Reading._read_arg,
    ast.AnnAssign: Reading._read_annassign,
    ast.FunctionDef: Reading._read_functiondef,
    ast.AsyncFunctionDef: Reading._read_functiondef,
    ast.ClassDef: Reading._read_functiondef,
    ast.Import: Reading._read_import,
    ast.ImportFrom: Reading._read_import,
}


def last(node: ast.expr) -> str:
    """The last part of a dotted name, as Field of pydantic.Field; of a call, of what is called."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_main(node: ast.stmt) -> bool:
    """Whether a statement is `if __name__ == "__main__"`."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and last(node.test.left) == "__name__"


class Imports:
    """What imports bind, by name, as dotted paths; and the paths that they run, with .* at the end of a module of which all names are taken."""

    def __init__(self, package: str):
        self.package, self.names, self.run = package, dict[str, str](), list[str]()

    def take(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            self.run += [one.name for one in node.names]
            self.names |= {one.asname: one.name for one in node.names if one.asname}
            self.names |= {root: root for one in node.names if not one.asname for root in [one.name.partition(".")[0]]}
            return
        above = self.package.split(".")[: len(self.package.split(".")) + 1 - node.level] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        self.run += [base, *(f"{base}.{one.name}" for one in node.names)]
        self.names |= {one.asname or one.name: f"{base}.{one.name}" for one in node.names if one.name != "*"}


class Module:
    """A module's definitions by name, what it does besides, and what its imported names stand for."""

    def __init__(self, name: str, is_package: bool, text: bytes):
        self.name, self.text, self.is_package = name, text, is_package
        self.imports = Imports(name if is_package else name.rpartition(".")[0])
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.rest: list[ast.stmt] = []  # with an effect when it is imported
        self.verbs: dict[str, str] = {}  # functions that are verbs, by the verb
        self.registered: set[str] = set()  # definitions that a decorator may put somewhere
        self.read: dict[str, list[Reading]] = {}
        self.known: dict[str, set[tuple[str, str | None]]] = {}
        for node in ast.parse(text).body:
            self._take(node)

    def _take(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imports.take(node)
        elif isinstance(node, ast.If) and last(node.test) == "TYPE_CHECKING":
            run = list(self.imports.run)
            for one in node.body:
                self._take(one)
            self.imports.run = run
            for one in node.orelse:
                self._take(one)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.definitions.setdefault(node.name, []).append(node)
            self._take_decorators(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
            held = [one for target in targets for one in ast.walk(target) if isinstance(one, ast.Attribute | ast.Subscript)]
            for name in names if not held or set(names) <= set(self.definitions) else ():
                self.definitions.setdefault(name, []).append(node)
            if held and not set(names) <= set(self.definitions):  # of another module, as os.environ["NAME"]
                self.rest.append(node)
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) and not _is_main(node):
            self.rest.append(node)
            for one in ast.walk(node):  # what an `if` or `try` binds is read with it
                if isinstance(one, ast.Import | ast.ImportFrom):
                    self.imports.take(one)
                elif isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    self.definitions.setdefault(one.name, [])
                elif isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
                    self.definitions.setdefault(one.id, [])

    def _take_decorators(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        for decorator in node.decorator_list:
            if COMMANDS.fullmatch(self.name):
                if isinstance(decorator, ast.Call) and last(decorator) in ("command", "verb"):
                    given = [*decorator.args[:1], *(one.value for one in decorator.keywords if one.arg == "name")]
                    name = next((one.value for one in given if isinstance(one, ast.Constant) and one.value), node.name.replace("_", "-"))
                    self.verbs[str(name)] = node.name
                continue
            names = [one.id for one in ast.walk(decorator) if isinstance(one, ast.Name)]
            package = self.name.partition(".")[0]
            if any(name in self.definitions or self.imports.names.get(name, "").partition(".")[0] == package for name in names):
                self.registered.add(node.name)

    def readings(self, name: str) -> list[Reading]:
        """The statements that make a definition, or all that is done besides."""
        if name not in self.read:
            nodes = self.definitions[name] if name else self.rest
            self.read[name] = [Reading(node, self.imports.package, name in self.verbs.values()) for node in nodes]
        return self.read[name]

    def named(self, name: str) -> set[tuple[str, str | None]]:
        """The names that a definition reads of its module, with their attributes: each with the dotted path that it is imported from, if it is."""
        if name not in self.known:
            found = self.known.setdefault(name, set())
            for reading in self.readings(name):
                read = self._globals(reading.node)
                for chain in reading.chains | reading.outside:
                    root, dot, rest = chain.partition(".")
                    if root in reading.inner.names:
                        found.add((chain, reading.inner.names[root] + dot + rest))
                    if read is None or root in read or chain in reading.outside:
                        if root in self.imports.names:
                            found.add((chain, self.imports.names[root] + dot + rest))
                        if root in self.definitions:
                            found.add((root, None))
        return self.known[name]

    @cached_property
    def _tables(self) -> list[symtable.SymbolTable]:
        return symtable.symtable(self.text.decode(), self.name, "exec").get_children()

    def _globals(self, node: ast.stmt) -> set[str] | None:
        """The names that a function or class reads of its module, by Python's own rules; None of another statement, whose names all are."""
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return None
        left = [table for table in self._tables if node.lineno <= table.get_lineno() <= (node.end_lineno or 0)]
        found: set[str] = set()
        while left:
            table = left.pop()
            left += table.get_children()
            of_class = table.get_type() == "class"  # whose names are the module's until they are bound
            found |= {one.get_name() for one in table.get_symbols() if one.is_referenced() and (of_class or one.is_global())}
        return found
