"""Scenes: several characters in one channel, of whom one answers each message."""
