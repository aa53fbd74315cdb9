"""Draws what members see: a real bot talks on the fake Discord, and headless Chromium takes pictures of its channels.

Run `python -m tests.screens` (it needs Chromium) to draw the pictures of docs/screens again.
"""
