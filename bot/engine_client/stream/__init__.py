"""A streamed reply: events, chunks, what is thought, and the pieces that the bot shows."""
