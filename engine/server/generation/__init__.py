"""The choices of one request: how many there are, what form they have, when they end, and their log-probabilities."""
