"""The engine itself: the thread that owns torch, the step loop, and the streams that requests read from."""
