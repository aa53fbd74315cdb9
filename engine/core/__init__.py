"""The engine itself: rank 0's engine thread and step loop, the streams that callers read, and the other ranks' loop."""
