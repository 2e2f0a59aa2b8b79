"""LTX-Video: T5 text encoder, transformer over packed video latents, flow-matching Euler, 3D causal autoencoder.

Staged exactly as diffusers' `LTXPipeline` and `LTXImageToVideoPipeline` compute, bit for bit in float32 on a CPU. The
one random generator is consumed in their order: [posterior sample of the first frame], initial noise, decode noise.
"""
