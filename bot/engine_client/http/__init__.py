"""Connections to a server: pooled, bounded, over TCP or a Unix socket."""
