"""What it changes that T5 sees the padding after a prompt: `python -m benchmarks.padding` prints a table.

The encoder has T5-XXL's 24 layers, and narrow ones with random weights: a trained one may differ.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.random_weights import ltx_card
from benchmarks.releases.ltx import write_repository
from pipelines.ltx.card import LTXParameters
from pipelines.ltx.text import TextEncoder
from pipelines.protocols import Resources

PROMPT = "a red circle moves left on a black background"


def main() -> None:
    """Compare the embeddings of the prompt's own tokens, padding seen and masked, at both lengths that releases use."""
    print("| `max_sequence_length` | cosine of the prompt's embeddings | largest difference |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder), "Lightricks/LTX-Video-0.9.5")
        card = ltx_card(Path(folder), guidance_scale=1.0)
        encoder = TextEncoder(card, Resources(gpu=False, threads=1))
        for length in (128, 256):
            seen, masked = (_embed(encoder, card.default_parameters(), length, padding) for padding in (True, False))
            cosine = torch.nn.functional.cosine_similarity(seen.flatten(), masked.flatten(), dim=0)
            print(f"| {length} | {float(cosine):.3f} | {float((seen - masked).abs().max()):.2f} |")


def _embed(encoder: TextEncoder, parameters: LTXParameters, length: int, padding: bool) -> torch.Tensor:
    fields = {"max_sequence_length": length, "t5_attends_to_padding": padding}
    conditioning = encoder.encode(PROMPT, parameters.model_copy(update=fields))
    words = int(conditioning.prompt_attention_mask.sum())
    return conditioning.prompt_embeds[:, :words]


if __name__ == "__main__":
    main()
