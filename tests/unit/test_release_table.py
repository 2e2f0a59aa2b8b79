"""The table of the releases in docs/models.md is what their cards say."""

from __future__ import annotations

from PIL import Image

from pipelines.card import CheckpointCard
from pipelines.catalogue import load_catalogue
from pipelines.ltx.card import LTXCard, LTXParameters
from pipelines.ltx.guidance_settings import Blocks, PerStep
from pipelines.ltx.reference import reference_of
from pipelines.paths import ROOT
from pipelines.svd.card import SVDCard

BEGIN, END = "<!-- releases -->", "<!-- end of releases -->"
HEAD = ("Model", "File or folder", "Reference", "Steps", "Guidance", "STG", "Size and length", "Verified")


def test_the_table_of_releases_is_what_the_cards_say() -> None:
    cards = [card for card in load_catalogue().values() if isinstance(card, CheckpointCard) and card.source.repo]
    rows = [HEAD, *(row(card) for card in cards)]
    lines = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in rows]
    table = "\n".join([lines[0], "|---" * len(HEAD) + "|", *lines[1:]])
    shown = (ROOT / "docs" / "models.md").read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == table, f"the table is now:\n{table}"


def row(card: CheckpointCard) -> tuple[str, ...]:
    defaults, source = card.defaults, card.source
    place = f"`{source.file}`" if source.file else f"`{source.repo}`"
    others = [steps for steps in reversed(card.allowed_num_inference_steps) if steps != defaults.num_inference_steps]
    steps = " or ".join(map(str, [defaults.num_inference_steps, *others]))
    shape = f"{defaults.width}x{defaults.height}x{defaults.num_frames}, {defaults.fps} fps"
    if isinstance(card, SVDCard):
        guidance = f"{card.defaults.min_guidance_scale:g} to {card.defaults.max_guidance_scale:g}"
        return f"`{card.id}`", place, "`StableVideoDiffusionPipeline`", steps, guidance, "", shape, "equal bits"
    assert isinstance(card, LTXCard)
    parameters = card.default_parameters()
    pipelines = dict.fromkeys(reference_of(parameters, image) for image in (None, Image.new("RGB", (8, 8))))
    reference = ", ".join(f"`{each.__name__}`" for each in pipelines)
    guidance = values(parameters.guidance_scale)
    return f"`{card.id}`", place, reference, steps, guidance, stg(parameters), shape, verified(parameters)


def stg(parameters: LTXParameters) -> str:
    if parameters.stg_scale == 0:
        return "off"
    scale, rescale = values(parameters.stg_scale), values(parameters.stg_rescale)
    return f"{scale}; rescale {rescale}; blocks {values(parameters.stg_blocks)}"


def values(of: PerStep | Blocks) -> str:
    """One value, or a list as on the card."""
    if not isinstance(of, tuple):
        return f"{of:g}"
    return f"[{', '.join(values(each) for each in of)}]"


def verified(parameters: LTXParameters) -> str:
    """What diffusers cannot do is compared with a plain reference."""
    if parameters.stochastic_sampling:
        return "equal bits without the fresh noise; with it against a plain reference"
    if isinstance(parameters.guidance_scale, tuple):
        return "equal bits with one guidance, without STG and CFG-Zero*; these and the lists against a plain reference"
    return "equal bits without STG; STG against a plain reference" if parameters.stg_scale else "equal bits"
