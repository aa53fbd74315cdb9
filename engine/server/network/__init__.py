"""Sockets, heads and bodies: who may connect, what is read, and how much of it. It knows no model and no protocol."""
