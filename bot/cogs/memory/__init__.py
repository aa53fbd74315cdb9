"""/memory, and why an answer is as it is."""
