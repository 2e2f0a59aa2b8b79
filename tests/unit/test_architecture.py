"""What docs/architecture.md says of the modules is of the code as it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from pipelines.paths import ROOT
from scripts.draw_modules import draw

PAGE = ROOT / "docs/architecture.md"


def test_the_picture_of_the_modules_is_current() -> None:
    assert sizes_aside(draw()) in sizes_aside(PAGE.read_text()), "draw it again: make modules"


def sizes_aside(text: str) -> str:
    """Lines of code change every day; boxes and arrows are what is held."""
    return re.sub(r"<br/>\d+ modules, longest \d+ lines", "", text)


def test_the_walks_name_modules_that_are_there() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", PAGE.read_text()))
    assert len(named) > 15
    roots = [ROOT, ROOT / "deployments"]
    assert [each for each in named if not any((root / each).is_file() for root in roots)] == []


def test_each_question_has_one_module_that_decides() -> None:
    rows = list(questions())
    assert len(rows) > 10
    assert len({question for question, _, _ in rows}) == len(rows), "a question is asked twice"
    for question, module, decides in rows:
        assert question.endswith("?")
        assert re.fullmatch(r"`[a-z_/]+\.py`", module), f"{question} has one module as its answer, not {module}"
        path = ROOT / module.strip("`")
        assert path.is_file(), f"{question} {module} is not there"
        name = re.findall(r"`(.+?)`", decides)[0]
        assert name in defined(ast.parse(path.read_text())), f"{question} {module} does not define {name}"


def questions() -> Iterator[list[str]]:
    """The rows of the table "Where is ...?": question, module, and what decides there."""
    section = PAGE.read_text().split("## Where is ...?")[1].split("\n## ")[0]
    for line in section.splitlines()[1:]:
        if line.startswith("|") and not line.startswith(("| Question ", "|---")):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def defined(tree: ast.Module) -> set[str]:
    """The names of a module's classes, functions and values, and of its methods as `Class.method`."""
    names: set[str] = set()
    for each in tree.body:
        if isinstance(each, ast.FunctionDef | ast.ClassDef):
            names.add(each.name)
        if isinstance(each, ast.ClassDef):
            names |= {f"{each.name}.{one.name}" for one in each.body if isinstance(one, ast.FunctionDef)}
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            names.add(each.target.id)
    return names
