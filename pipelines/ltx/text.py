"""Stage 1a: encode a prompt to T5 embeddings."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from pipelines.devices import place
from pipelines.ltx.card import LTXCard, LTXParameters
from pipelines.ltx.outputs import TextConditioning
from pipelines.protocols import Resources
from pipelines.weights.description import description_of
from pipelines.weights.load import load_network

CACHED_PROMPTS = 64  # of at most a megabyte each


class TextEncoder:
    """T5 and its tokenizer.

    Prompts are padded to the model's `max_sequence_length`. In diffusers (`LTXPipeline._get_t5_prompt_embeds`) T5
    attends to the padding too, so that the result depends on that length; the makers' own code (LTX-Video,
    `encode_prompt`) masks it. The card says which. Each forward pass embeds one prompt,
    because batching changes bits.
    """

    def __init__(self, card: LTXCard, resources: Resources) -> None:
        placement = place(card, resources)  # first: it keeps diffusers from importing an xformers that cannot run
        from transformers import AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # the progress bar would write into a replica's log
        folder = description_of(card, "tokenizer")
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder), subfolder="tokenizer")
        self.network = load_network(card, "text_encoder", dtype=placement.dtype, device=placement.device)
        self.placement = placement
        # Embeddings are deterministic, so caching pays: nearly every job has the same negative prompt.
        self._embed = lru_cache(maxsize=CACHED_PROMPTS)(self._embed_uncached)

    def warm_up(self) -> None:
        """Run once, so that the first request finds everything ready."""
        self._embed_uncached("", 16, attends_to_padding=True)

    def truncates(self, prompt: str, parameters: LTXParameters) -> bool:
        """Whether the prompt is too long, so that the model sees only its beginning."""
        return len(self.tokenizer(prompt).input_ids) > parameters.max_sequence_length

    def encode(self, prompt: str, parameters: LTXParameters) -> TextConditioning:
        """Embed a prompt, and the negative prompt when guidance is on. Results are on the CPU."""
        length, padding = parameters.max_sequence_length, parameters.t5_attends_to_padding
        embeds, mask = self._embed(prompt, length, padding)
        negative_embeds, negative_mask = None, None
        if parameters.guided:
            negative_embeds, negative_mask = self._embed(parameters.negative_prompt, length, padding)
        return TextConditioning(embeds, mask, negative_embeds, negative_mask)

    @torch.no_grad()
    def _embed_uncached(self, prompt: str, length: int, attends_to_padding: bool) -> tuple[Tensor, Tensor]:
        tokens = self.tokenizer(
            [prompt],
            padding="max_length",
            max_length=length,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        device = self.placement.device
        mask = None if attends_to_padding else tokens.attention_mask.to(device)
        embeds = self.network(tokens.input_ids.to(device), attention_mask=mask)[0]
        return embeds.cpu(), tokens.attention_mask.bool()
