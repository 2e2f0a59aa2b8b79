"""The mathematics of video generation: encode, denoise, decode. Knows torch and diffusers, but no Ray, HTTP or storage.

`errors`, `card`, `catalogue`, `families` and `requests` are what must be known without a GPU; they import no torch.
"""
