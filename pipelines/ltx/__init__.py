"""LTX-Video: T5 text encoder, transformer over packed video latents, flow-matching Euler, 3D causal autoencoder.

The stages compute exactly what diffusers' `LTXPipeline` and `LTXImageToVideoPipeline` compute, bit for bit in float32
on a CPU. They draw from the one random generator in the same order: [posterior sample of the first frame], initial
noise, decode noise.
"""
