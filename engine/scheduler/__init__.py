"""Which requests run in each step, and which KV pages they hold. Plain Python: no torch, no clock, no text."""
