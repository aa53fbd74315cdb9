"""The messages that wait for their first token: who may wait, in which order, and for about how long."""
