"""A family without weights: its stages take the times of its card, with outputs of real shape. No torch.

It is for planning and for tests of scale, where what is tried is the service and not the mathematics.
"""
