"""Stage 1a: encode a prompt to T5 embeddings."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from pipelines.devices import place
from pipelines.ltx.card import LTXCard, LTXParameters
from pipelines.ltx.outputs import TextConditioning
from pipelines.protocols import Resources
from pipelines.weights import load_component, locate

CACHED_PROMPTS = 64  # of at most a megabyte each


class TextEncoder:
    """T5 and its tokenizer.

    Prompts are padded to the model's `max_sequence_length`, and T5 attends to the padding, as in diffusers
    (`LTXPipeline._get_t5_prompt_embeds`); so the result depends on that length. Each forward pass embeds one prompt,
    because batching changes bits.
    """

    def __init__(self, card: LTXCard, resources: Resources) -> None:
        placement = place(card, resources)  # first: it keeps diffusers from importing an xformers that cannot run
        from transformers import AutoTokenizer, T5EncoderModel
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # the progress bar would write into a replica's log
        folder = locate(card, "tokenizer")
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder), subfolder="tokenizer")
        self.network = load_component(
            T5EncoderModel, card, "text_encoder", dtype=placement.dtype, device=placement.device
        )
        self.placement = placement
        # Embeddings are deterministic, so caching pays: nearly every job has the same negative prompt.
        self._embed = lru_cache(maxsize=CACHED_PROMPTS)(self._embed_uncached)

    def warm_up(self) -> None:
        """Run once, so that the first request finds everything ready."""
        self._embed_uncached("", 16)

    def truncates(self, prompt: str, parameters: LTXParameters) -> bool:
        """Whether the prompt is too long, so that the model sees only its beginning."""
        return len(self.tokenizer(prompt).input_ids) > parameters.max_sequence_length

    def encode(self, prompt: str, parameters: LTXParameters) -> TextConditioning:
        """Embed a prompt, and the negative prompt when guidance is on. Results are on the CPU."""
        embeds, mask = self._embed(prompt, parameters.max_sequence_length)
        negative_embeds, negative_mask = None, None
        if parameters.guided:
            negative_embeds, negative_mask = self._embed(parameters.negative_prompt, parameters.max_sequence_length)
        return TextConditioning(embeds, mask, negative_embeds, negative_mask)

    @torch.no_grad()
    def _embed_uncached(self, prompt: str, length: int) -> tuple[Tensor, Tensor]:
        tokens = self.tokenizer(
            [prompt],
            padding="max_length",
            max_length=length,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        embeds = self.network(tokens.input_ids.to(self.placement.device))[0]
        return embeds.cpu(), tokens.attention_mask.bool()
