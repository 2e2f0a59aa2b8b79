"""Every exception of ours comes whole through a pickle: Ray carries errors from process to process in one."""

from __future__ import annotations

import builtins
import importlib
import inspect
import pickle
import re

import pytest

from pipelines.paths import ROOT

GIVEN: dict[str, object] = {"retry_after_s": 7.5, "param": "width", "code": "its_own"}
"""What errors are made with beside a message; another parameter gets a word."""
CLASS = re.compile(r"^class (\w+)\((\w+)", re.MULTILINE)


def exceptions() -> list[tuple[str, str]]:
    """The exception classes of the service, by module and name; found by their text, as some modules import much."""
    paths = [
        path for folder in ("deployments", "jobs", "pipelines", "storage") for path in (ROOT / folder).rglob("*.py")
    ]
    classes = {
        name: (base, ".".join(path.relative_to(ROOT).with_suffix("").parts))
        for path in paths
        for name, base in CLASS.findall(path.read_text())
    }

    def is_exception(name: str) -> bool:
        if name in classes:
            return is_exception(classes[name][0])
        found = getattr(builtins, name, None)
        return isinstance(found, type) and issubclass(found, BaseException)

    return [(module, name) for name, (_, module) in sorted(classes.items()) if is_exception(name)]


@pytest.mark.parametrize(("module", "name"), exceptions())
def test_an_error_comes_through_a_pickle_with_all_that_it_says(module: str, name: str) -> None:
    kind = getattr(importlib.import_module(module), name)
    own_init = kind.__init__ is not Exception.__init__ and inspect.isfunction(kind.__init__)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:] if own_init else []
    positional = [
        GIVEN.get(each.name, "it says what to do") for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD
    ] or ["it says what to do"]
    named = {each.name: GIVEN.get(each.name, "a word") for each in parameters if each.kind is each.KEYWORD_ONLY}
    error = kind(*positional, **named)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.args, vars(again), str(again)) == (error.args, vars(error), str(error))
