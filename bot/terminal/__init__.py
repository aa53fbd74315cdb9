"""The terminal commands. Only modules in this folder, and bot/cli.py, print."""
