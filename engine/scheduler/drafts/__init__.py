"""Drafts of next tokens: where they come from, how many pay, and which are accepted. No torch, no clock."""
