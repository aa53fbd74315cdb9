"""What a guild or a member has set."""
