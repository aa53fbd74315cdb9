"""Discord and terminal front-ends, the use cases behind them, and their scheduled work. Knows no torch."""
