"""Decides when all ranks write the KV cache to files and restore it after a restart. Knows no file format."""
