"""The discord.py application: client, permissions, delivery of replies, command registration."""
