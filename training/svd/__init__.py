"""The recipe of svd-tiny: autoencoder, image encoder and UNet, and the judgement of the result."""
