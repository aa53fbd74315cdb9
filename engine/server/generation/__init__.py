"""The choices of one request: how many there are, what they must match, when they end, and their log-probabilities."""
