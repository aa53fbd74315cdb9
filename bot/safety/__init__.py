"""What a guild keeps out of conversations: its own words, and what a moderation endpoint finds."""
