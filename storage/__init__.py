"""Storage of videos, input images and checkpoints behind one small interface. It knows only bytes and keys."""
