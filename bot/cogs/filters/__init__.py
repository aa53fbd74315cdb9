"""`/config filter`: what a guild keeps out of its conversations."""
