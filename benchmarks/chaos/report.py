"""The rounds as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.harness.chaos.scene import Row

HEAD = (
    "kill", "what the victim held", "in flight", "accepted", "completed", "lost", "doubled", "attempts used",
    "steps repeated (bound)", "seconds until it went on (bound)", "bytes equal",
)  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Markdown, and one line of totals."""
    return "\n".join([_line(HEAD), "|---" * len(HEAD) + "|", *map(line, rows), "", totals(rows)])


def line(row: Row) -> str:
    """A round as a line of the table."""
    blow, verdict = row.blow, row.verdict
    held = "; ".join(sorted({str(each) for each in blow.held})[:3])
    more = f" and {len(blow.held) - 3} more" if len(blow.held) > 3 else ""
    return _line(
        (
            row.name,
            ": ".join(filter(None, [held + more, blow.how])),
            blow.in_flight, verdict.accepted, verdict.completed, verdict.lost, verdict.doubled,
            ", ".join(f"{count} x {attempts}" for attempts, count in sorted(verdict.attempts.items())),
            "" if row.repeated is None else f"{row.repeated[0]} ({row.repeated[1]:.1f})",
            "{:.1f} ({:.1f})".format(*row.went_on),
            f"{verdict.equal} of {verdict.accepted}",
        )
    )  # fmt: skip


def totals(rows: Sequence[Row]) -> str:
    """The last line."""
    all_of = [sum(getattr(row.verdict, name) for row in rows) for name in ("accepted", "completed", "lost", "doubled")]
    bad = sum(not row.good for row in rows)
    words = "{} accepted, {} completed, {} lost, {} doubled".format(*all_of)
    end = "every round kept every promise" if not bad else f"{bad} of {len(rows)} rounds broke a promise"
    return f"**{len(rows)} rounds in {sum(row.seconds for row in rows) / 60:.0f} minutes: {words}; {end}.**"


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
