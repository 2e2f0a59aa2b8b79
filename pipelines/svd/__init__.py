"""Stable Video Diffusion: an image to video.

Source: diffusers 0.42 `StableVideoDiffusionPipeline`; the paper is arXiv 2311.15127.
"""
