"""The mathematics of video generation: encode, denoise, decode. Uses torch and diffusers, but no Ray, HTTP or storage.

Processes without a GPU use `errors`, `card`, `catalogue`, `families` and `requests`, so these do not import torch.
"""
