"""One cog per feature: thin edges between discord.py and the use cases."""
