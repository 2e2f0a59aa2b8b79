"""Draw the product's folders and the imports between them into docs/architecture.md: `make modules`.

A box is a folder, with how many modules it has and the lines of the longest one. An arrow is at least one import.
Arrows to the three boxes at the bottom, which every other box imports, are left out: they would hide the rest.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/architecture.md"
PACKAGES = ("cli", "deployments", "jobs", "storage", "pipelines")
CLASSES = ("api", "conductor", "encoders", "denoiser", "video_decoder", "publisher")
FOLDERS = ("http", "orchestration", "stages", "housekeeping", "configuration")
BOTTOM = ("configuration", "beside", "pipelines")
BLOCK = re.compile(r"```mermaid\nflowchart TD\n.*?```", re.DOTALL)


def box_of(module: str) -> str:
    """The box that a module is drawn in."""
    parts = module.split(".")
    if parts[0] != "deployments":
        return parts[0]
    if len(parts) == 1 or parts[1] in CLASSES:
        return "serve_classes"
    return parts[1] if parts[1] in FOLDERS else "beside"


def draw() -> str:
    """The picture, as a Mermaid block."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    modules = {module for module in graph.modules if not module.startswith("jobs.migrations")}
    lines: dict[str, list[int]] = {}
    for module in modules:
        path = ROOT / (module.replace(".", "/") + ".py")
        if path.is_file():
            lines.setdefault(box_of(module), []).append(len(path.read_text().splitlines()))
    arrows = {
        (box_of(importer), box_of(imported))
        for importer in modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if imported in modules and box_of(imported) not in BOTTOM
    }
    titles = {"serve_classes": "the Serve classes", "beside": "metrics, events, autoscaling, outbound, background"}
    upper = ("cli", "serve_classes", *(each for each in FOLDERS if each not in BOTTOM), "jobs", "storage")
    drawn = ["```mermaid", "flowchart TD", "    serve_app[serve_app.py]"]
    drawn += [f"    {_box(box, titles, lines)}" for box in upper]
    drawn += ["    subgraph bottom[imported by all]"]
    drawn += [f"        {_box(box, titles, lines)}" for box in BOTTOM]
    drawn += ["    end"]
    drawn.append("    serve_app --> serve_classes")
    drawn += [f"    {source} --> {target}" for source, target in sorted(arrows) if source != target]
    return "\n".join([*drawn, "```"])


def _box(box: str, titles: dict[str, str], lines: dict[str, list[int]]) -> str:
    return f'{box}["{titles.get(box, box)}<br/>{len(lines[box])} modules, longest {max(lines[box])} lines"]'


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(BLOCK.sub(lambda _: draw(), page))
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}: drawn\n")
