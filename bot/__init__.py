"""The bot: Discord and terminal front-ends, the use cases behind them, and scheduled jobs. Knows no torch."""
