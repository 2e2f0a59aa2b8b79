"""What is wrong with a value, in a sentence of ours: pydantic's own words are for programmers.

Source of the kinds: pydantic's documentation, "Validation Errors".
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_SAYS = {
    "missing": "is missing",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "model_type": "must be a mapping",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "none_required": "must be left out",
}


def wrong(error: ErrorDetails, model: type[BaseModel] | None = None) -> str:
    """What is wrong with one value, to stand after its name.

    Args:
        model: what was validated, to name the fields that there are when one is unknown.
    """
    if error["type"] == "extra_forbidden":
        return unknown(str(error["loc"][-1]), _fields(model, error["loc"][:-1]))
    context = error.get("ctx", {})
    if context.get("min_length") == 1:
        return "must not be empty"
    if error["type"] == "value_error" and "error" in context:
        return str(context["error"])
    if (says := _SAYS.get(error["type"])) is not None:
        plain = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
        return says.format(**plain)
    return error["msg"][:1].lower() + error["msg"][1:]


def all_wrong(error: ValidationError, model: type[BaseModel] | None = None, root: str = "") -> Iterator[str]:
    """A sentence for each wrong value, with its path below `root`."""
    for each in error.errors(include_url=False):
        path = root + ".".join(map(str, each["loc"]))
        yield f"{path}: {wrong(each, model)}" if path else wrong(each, model)


def unknown(name: str, known: Collection[str]) -> str:
    """What to say of a name that there is not."""
    if not known:
        return "is not known"
    near = difflib.get_close_matches(name, known, 1)
    return f"is not known; did you mean {near[0]}?" if near else f"is not known; there are {', '.join(sorted(known))}"


def _fields(model: type[BaseModel] | None, path: tuple[int | str, ...]) -> Collection[str]:
    """The fields of the model at a path below another; none where the path leads through something else."""
    for part in path:
        if model is None:
            return ()
        if isinstance(part, str) and part in model.model_fields:
            model = _model_of(model.model_fields[part].annotation)
    return model.model_fields if model is not None else ()


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation, such as that of a list or of an optional one."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _model_of(each)) is not None), None)
