"""Replies on their way to Discord, and the processes that write them."""
