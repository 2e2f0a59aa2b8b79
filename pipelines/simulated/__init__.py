"""A family without weights: its stages take the times given on its card, with outputs of real shape. No torch.

It serves planning and tests of scale, which test the service and not the mathematics.
"""
