"""One cog per feature: thin edges between discord.py and the services that do the work."""
