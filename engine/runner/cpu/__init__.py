"""A step on a CPU in compiled code, where there is a compiler; the rest of the engine works without it."""
