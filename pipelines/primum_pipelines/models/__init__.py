"""Models that can be trained privately, and the one file format they are stored and served in."""
