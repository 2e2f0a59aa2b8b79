"""Where finished videos and input images live, behind one small interface. Knows bytes and keys only."""
