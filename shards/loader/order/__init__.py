"""The order in which a source is drawn, as a pure function of the seed and the position."""
