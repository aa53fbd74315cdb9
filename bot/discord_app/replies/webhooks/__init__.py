"""Replies that a persona gives under its own name, through the webhook of the channel."""
