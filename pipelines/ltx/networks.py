"""LTX-Video's networks, and under which names files hold them. No torch before a network is built.

The makers publish transformer and autoencoder in one file, under names of their own that changed with the
autoencoder's generations; diffusers knows them all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.ltx.gguf_t5 import T5_GGUF
from pipelines.ltx.gguf_transformer import LTX_GGUF
from pipelines.ltx.release import contradiction
from pipelines.weights.network import Network
from pipelines.weights.recipe import Layout, Part, Recipe

if TYPE_CHECKING:
    from torch import Tensor

VAE = "vae."
OTHERS = ("text_encoders.", "conditioner.")
"""Parts of all-in-one files that are loaded from places of their own."""
ENCODER_END = "vae.encoder.conv_out.conv.weight"  # by which diffusers tells the autoencoder's generations apart
EMBEDDING, EMBEDDING_TOO = "shared.weight", "encoder.embed_tokens.weight"


def _transformer_class() -> Any:
    from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel

    return LTXVideoTransformer3DModel


def _vae_class() -> Any:
    from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo

    return AutoencoderKLLTXVideo


def _t5_class() -> Any:
    from transformers import T5EncoderModel

    return T5EncoderModel


def _beside_the_vae(names: Collection[str]) -> Collection[str]:
    return [name for name in names if not name.startswith((VAE, *OTHERS))]


def _the_vae(names: Collection[str]) -> Collection[str]:
    """The autoencoder's names; in a file of its own they have no prefix."""
    return [name for name in names if name.startswith(VAE)] or names


def _find_transformer(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Recipe:
    from diffusers.loaders.single_file_utils import convert_ltx_transformer_checkpoint_to_diffusers as convert

    return _converted(convert, stored, expected)


def _find_vae(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Recipe:
    from diffusers.loaders.single_file_utils import convert_ltx_vae_checkpoint_to_diffusers as convert

    if expected.keys() <= stored.keys():
        return {name: Part(name) for name in expected}
    prefix = "" if any(name.startswith(VAE) for name in stored) else VAE
    if ENCODER_END.removeprefix(prefix) not in stored:
        return {}
    parts = _converted(convert, {prefix + name: tensor for name, tensor in stored.items()}, expected)
    return {name: Part(part.name.removeprefix(prefix)) for name, part in parts.items()}


def _converted(
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    stored: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> Recipe:
    """The file's name of each tensor, as diffusers' converter, which only renames, takes it."""
    names = {id(tensor): name for name, tensor in stored.items()}
    converted = convert(dict(stored))
    return {name: Part(names[id(tensor)]) for name, tensor in converted.items() if name in expected}


def _find_t5(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Recipe:
    """T5's embedding has two names, of which a file may have either."""
    parts = {name: Part(name) for name in expected if name in stored}
    if EMBEDDING in expected and EMBEDDING not in stored and EMBEDDING_TOO in stored:
        parts[EMBEDDING] = Part(EMBEDDING_TOO)
    return parts


T5 = Layout(_find_t5)
NETWORKS: Mapping[str, Network] = {
    "transformer": Network(
        _transformer_class,
        file=Layout(_find_transformer, _beside_the_vae),
        gguf=LTX_GGUF,
        contradiction=lambda card, metadata: contradiction(card.defaults, metadata),
    ),
    "vae": Network(
        _vae_class,
        file=Layout(_find_vae, _the_vae),
        ignored=(r"per_channel_statistics\.(channel|mean-of-stds)",),
    ),
    # A whole T5 has a decoder too.
    "text_encoder": Network(
        _t5_class,
        folder=T5,
        file=T5,
        gguf=T5_GGUF,
        ignored=(r"^decoder\.", r"^lm_head\.", r"^spiece_model$", EMBEDDING_TOO),
    ),
}
