"""How the bot calls Discord's REST API: messages and threads by ids, in their turn, and not where it was refused."""
