"""The recipe of ltx-tiny: tokenizer, autoencoder, text encoder and transformer, and the judgement of the result."""
