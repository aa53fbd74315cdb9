"""Whether a model sees pictures: found out by showing it one, and read from refusals."""
