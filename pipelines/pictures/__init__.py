"""Reads the pictures that people send: whatever the file, it becomes an upright sRGB picture of 8 bits.

It uses Pillow and pi-heif alone, and runs in a process of its own (`worker`), since decoders crash, hang and grow.
"""
