"""The bot on Discord: connection, permissions, delivery of replies, registration of commands."""
