"""Dialogs and their turns: begun, finished, read again, reset, named."""
