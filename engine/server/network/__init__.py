"""Sockets, heads and bodies: who may connect, what is read, and how much of it. Knows no model, and no API."""
