"""The choices of one request: their number, grammar, end and log-probabilities. Knows neither HTTP nor torch."""
