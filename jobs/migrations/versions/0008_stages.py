"""Stages, under the names that they have everywhere: columns, the table of costs, and what is stored as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from alembic import op
from sqlalchemy import JSON, Column, Integer, MetaData, String, Table, bindparam, select, tuple_, update

revision = "0008"
down_revision = "0007"

COLUMNS = {"leg": "stage", "leg_seconds": "stage_seconds", "facts": "result_metadata"}
NAMES = {"text": "text_encode", "image": "image_encode"}
AT_ONCE = 1000

metadata = MetaData()
jobs = Table(
    "jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("model", String),
    *(Column(name, JSON(none_as_null=True)) for name in ("parameters", "work", "stage_seconds", "checkpoint")),
)
job_events = Table(
    "job_events",
    metadata,
    Column("job_id", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("data", JSON),
)


def upgrade() -> None:
    for old, new in COLUMNS.items():
        op.alter_column("jobs", old, new_column_name=new)
    op.rename_table("leg_costs", "stage_costs")
    op.alter_column("stage_costs", "leg", new_column_name="stage")
    op.execute("UPDATE jobs SET stage = 'text_encode' WHERE stage = 'encode'")
    from_image_only: set[str] = set()

    def job(row: Mapping[str, Any]) -> dict[str, Any]:
        encoder = "image_encode" if (row["parameters"] or {}).get("family") == "svd" else "text_encode"
        if encoder == "image_encode":
            from_image_only.add(row["model"])
        return {
            "work": _renamed(row["work"], {"encode": encoder}),
            "stage_seconds": _renamed(row["stage_seconds"], NAMES),
            "checkpoint": _renamed(row["checkpoint"], {"facts": "result_metadata"}),
        }

    _rewrite(jobs, job)
    _rewrite(job_events, lambda row: {"data": _event(row["data"], "leg", "stage", {"encode": "text_encode"})})
    # What was learned of both encoders together is the text encoder's, where the family has one.
    costs = Table("stage_costs", MetaData(), Column("model", String), Column("stage", String))
    together = costs.c.stage == "encode"
    svd = costs.c.model.in_(from_image_only)
    op.get_bind().execute(update(costs).where(together, svd).values(stage="image_encode"))
    op.get_bind().execute(update(costs).where(together).values(stage="text_encode"))


def downgrade() -> None:
    encode = dict.fromkeys(("text_encode", "image_encode"), "encode")
    back = {new: old for old, new in NAMES.items()}

    def job(row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "work": _renamed(row["work"], encode),
            "stage_seconds": _renamed(row["stage_seconds"], back),
            "checkpoint": _renamed(row["checkpoint"], {"result_metadata": "facts"}),
        }

    _rewrite(jobs, job)
    _rewrite(job_events, lambda row: {"data": _event(row["data"], "stage", "leg", encode)})
    op.execute("UPDATE jobs SET stage = 'encode' WHERE stage IN ('text_encode', 'image_encode')")
    op.execute("DELETE FROM stage_costs WHERE stage = 'image_encode' AND model IN "
               "(SELECT model FROM stage_costs WHERE stage = 'text_encode')")  # fmt: skip
    op.execute("UPDATE stage_costs SET stage = 'encode' WHERE stage IN ('text_encode', 'image_encode')")
    op.alter_column("stage_costs", "stage", new_column_name="leg")
    op.rename_table("stage_costs", "leg_costs")
    for old, new in COLUMNS.items():
        op.alter_column("jobs", new, new_column_name=old)


def _renamed(value: Mapping[str, Any] | None, names: Mapping[str, str]) -> dict[str, Any] | None:
    return None if value is None else {names.get(name, name): each for name, each in value.items()}


def _event(data: dict[str, Any], old: str, new: str, names: Mapping[str, str]) -> dict[str, Any]:
    stage = data.get(old)
    return {new if name == old else name: names.get(stage or "", stage) if name == old else each
            for name, each in data.items()}  # fmt: skip


def _rewrite(table: Table, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Change rows by their key, some at a time: a long history does not have to fit into memory."""
    keys = list(table.primary_key)
    for rows in _pages(table, keys):
        changes = [({key.name: row[key.name] for key in keys}, change(row)) for row in rows]
        names = list(changes[0][1])
        statement = update(table).where(*(key == bindparam(f"key_{key.name}") for key in keys))
        statement = statement.values({name: bindparam(f"new_{name}") for name in names})
        op.get_bind().execute(
            statement,
            [
                {**{f"key_{name}": value for name, value in key.items()},
                 **{f"new_{name}": value for name, value in new.items()}}
                for key, new in changes
            ],
        )  # fmt: skip


def _pages(table: Table, keys: list[Column[Any]]) -> Iterator[list[dict[str, Any]]]:
    after: tuple[Any, ...] | None = None
    while True:
        query = select(table).order_by(*keys).limit(AT_ONCE)
        if after is not None:
            query = query.where(tuple_(*keys) > after)
        rows = [dict(row) for row in op.get_bind().execute(query).mappings()]
        if not rows:
            return
        yield rows
        after = tuple(rows[-1][key.name] for key in keys)
