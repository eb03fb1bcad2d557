"""The structure of the code in numbers, and its picture in docs/architecture.md.

    python tests/structure.py            print the numbers (make structure)
    python tests/structure.py --write    also draw the picture again

A module is a file; a room is a folder of modules, named from the top of its tree (`runner` or `scripts`). All is read
from the source: imports (also those inside functions), definitions and docstrings. Nothing is executed.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- picture: drawn by tests/structure.py --write -->", "<!-- end of picture -->"
# From the top; a room imports from its own floor's room and from those below it.
FLOORS = {
    "runner": ("cli", "ui", "commands", "targets", "record", "plan", "compose", "execute"),
    "scripts": ("programs", "serving", "training", "inference", "data", "shards", "formats", "base"),
}
# Below every floor: they import nothing of ours.
_BASE = {"runner": ("runner", "errors", "metrics", "paths", "startup"), "scripts": ()}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name as it is imported, and its room."""

    name: str
    room: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def imports(self) -> list[tuple[str, str]]:
        """What it imports: (module, "") of `import module`, (module, name) of `from module import name`."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found += [(node.module, alias.name) for alias in node.names]
        return found

    @cached_property
    def strings(self) -> list[tuple[str, str]]:
        """In the form of `imports`, the strings of a module that uses import_module: it may import what they name."""
        if ("importlib", "import_module") not in self.imports:
            return []
        constants = (node.value for node in ast.walk(self.tree) if isinstance(node, ast.Constant))
        return [(value, "") for value in constants if isinstance(value, str)]


def modules(tree: str, root: Path = ROOT) -> dict[str, Module]:
    """Every module of the tree `runner` or `scripts` by its dotted name."""
    found = {}
    start = root if tree == "runner" else root / tree  # stage programs have scripts/ itself on their path
    for path in sorted((root / tree).rglob("*.py")):
        if "plugins" in path.parts:  # Hydra imports it by itself, as a package of its own
            continue
        name = ".".join(path.relative_to(start).with_suffix("").parts).removesuffix(".__init__")
        found[name] = Module(name, _room(tree, name, path), path)
    return found


def _room(tree: str, name: str, path: Path) -> str:
    parts = name.split(".")
    if tree == "runner":
        return {"__main__": "cli"}.get(parts[1], parts[1]) if len(parts) > 1 else "runner"
    if parts[0] != "common":
        return "programs"
    return parts[1] if len(parts) > 2 or (len(parts) == 2 and path.name == "__init__.py") else "base"


def edges(found: Mapping[str, Module]) -> set[tuple[str, str]]:
    """Imports between the modules of a tree: who imports, what is imported (of `from a import b` a.b if it is one)."""
    pairs = set()
    for module in found.values():
        for name, below in [*module.imports, *module.strings]:
            imported = f"{name}.{below}" if f"{name}.{below}" in found else name
            if imported in found and imported != module.name:
                pairs.add((module.name, imported))
    return pairs


def room_edges(found: Mapping[str, Module]) -> Counter[tuple[str, str]]:
    """How many imports lead from one room to another."""
    pairs = ((found[a].room, found[b].room) for a, b in edges(found))
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def upward(tree: str, found: Mapping[str, Module]) -> list[str]:
    """Imports that run against the floors, as `importer imports imported`."""
    floors, base = FLOORS[tree], _BASE[tree]

    def height(name: str) -> int:
        room = found[name].room
        return len(floors) if room in base else floors.index(room)

    return sorted(f"{a} imports {b}" for a, b in edges(found) if height(b) < height(a))


def circles(pairs: set[tuple[str, str]]) -> list[list[str]]:
    """Groups of names that import each other, directly or through others."""
    below = _reachable(pairs)
    groups = {frozenset(b for b in below[a] if a in below[b]) for a in below if a in below[a]}
    return sorted(sorted(group) for group in groups)


def _reachable(pairs: set[tuple[str, str]]) -> dict[str, set[str]]:
    direct: dict[str, set[str]] = {name: set() for pair in pairs for name in pair}
    for a, b in pairs:
        direct[a].add(b)
    reached = {}
    for name in direct:
        seen: set[str] = set()
        todo = list(direct[name])
        while todo:
            other = todo.pop()
            if other not in seen:
                seen.add(other)
                todo += direct[other]
        reached[name] = seen
    return reached


def functions(found: Mapping[str, Module]) -> list[int]:
    """Lines of every function, its docstring left out."""
    lengths = []
    for module in found.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                text = ast.get_docstring(node, clean=False)
                doc = (first.end_lineno or first.lineno) - first.lineno + 1 if text is not None else 0
                lengths.append((node.end_lineno or node.lineno) - node.lineno + 1 - doc)
    return sorted(lengths)


def docstrings(found: Mapping[str, Module]) -> tuple[int, int]:
    """How many public functions and classes of modules have a docstring, and how many there are."""
    public = [node for module in found.values() for node in _public(module.tree)]
    return sum(ast.get_docstring(node) is not None for node in public), len(public)


def _public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def untested(tree: str, found: Mapping[str, Module], root: Path = ROOT) -> list[str]:
    """Modules that define something and have no test module of their name at the same place under tests/."""
    tests = {path.relative_to(root / "tests").as_posix() for path in (root / "tests" / tree).rglob("test_*.py")}
    return [name for name, module in found.items() if _defines(module) and _test_of(module, root) not in tests]


def _defines(module: Module) -> bool:
    return any(isinstance(node, _DOCUMENTED[1:]) for node in module.tree.body)


def _test_of(module: Module, root: Path) -> str:
    """Where its test module belongs: tests/runner/plan/test_build.py for runner/plan/build.py."""
    path = module.path.relative_to(root)
    if path.stem == "__init__":
        path = path.parent
    return path.with_name(f"test_{path.stem.strip('_')}.py").as_posix()


def code_lines(found: Mapping[str, Module]) -> int:
    """Lines without blanks, comments and docstrings."""
    return sum(_code_lines(module) for module in found.values())


def _code_lines(module: Module) -> int:
    lines = module.path.read_text(encoding="utf-8").splitlines()
    left_out: set[int] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            left_out |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and number not in left_out
        for number, line in enumerate(lines, start=1)
    )


def picture(tree: str, found: Mapping[str, Module]) -> str:
    """The rooms of a tree as a Mermaid flow chart; an arrow says that a room imports another, and how often."""
    rooms = Counter(module.room for module in found.values() if module.room in FLOORS[tree])
    lines = ["```mermaid", "flowchart TD"]
    lines += [f'    {tree}_{room}["{room} ({rooms[room]})"]' for room in FLOORS[tree] if rooms[room]]
    for (a, b), count in sorted(room_edges(found).items()):
        if a in rooms and b in rooms:
            lines.append(f"    {tree}_{a} -- {count} --> {tree}_{b}")
    return "\n".join([*lines, "```"])


def drawn() -> str:
    """Both pictures, as docs/architecture.md holds them."""
    return "\n\n".join(f"`{tree}/`\n\n{picture(tree, modules(tree))}" for tree in FLOORS)


def numbers(tree: str) -> Iterator[tuple[str, str]]:
    """What is counted of a tree: a name and its value."""
    found = modules(tree)
    between, lengths = room_edges(found), functions(found)
    folders = Counter(str(module.path.parent.relative_to(ROOT)) for module in found.values())
    largest, count = folders.most_common(1)[0]
    documented, public = docstrings(found)
    yield "modules", str(len(found))
    yield "lines of code", str(code_lines(found))
    yield "rooms", str(len({module.room for module in found.values()}))
    yield "largest folder", f"{count} ({largest})"
    yield "imports between rooms", f"{sum(between.values())} over {len(between)} pairs"
    yield "upward imports", str(len(upward(tree, found)))
    yield "circles of modules", str(len(circles(edges(found))))
    yield "circles of rooms", str(len(circles(set(between))))
    yield "function lines: median, p90, max", _spread(lengths)
    yield "modules without a test module", str(len(untested(tree, found)))
    yield "public names with a docstring", f"{documented} of {public} ({100 * documented / public:.0f} %)"


def _spread(lengths: Sequence[int]) -> str:
    return f"{statistics.median(lengths):g}, {lengths[int(len(lengths) * 0.9)]}, {lengths[-1]}"


def write_picture() -> None:
    """Draw the picture in docs/architecture.md again."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n{drawn()}\n{END}{tail}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="draw the picture in docs/architecture.md again")
    if parser.parse_args().write:
        write_picture()
    for tree in FLOORS:
        print(f"{tree}/")
        for name, value in numbers(tree):
            print(f"  {name:34} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
