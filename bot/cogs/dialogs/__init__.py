"""A member's conversations: reset them, read them again, keep several."""
