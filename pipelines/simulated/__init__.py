"""A family without weights: its legs take the times that its card says, and hand over tensors of real shape. No torch.

It is for planning and for tests of scale, where what is tried is the relay and not the mathematics.
"""
