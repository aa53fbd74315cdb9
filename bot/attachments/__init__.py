"""Files that members send: read, checked, and turned into text and pictures for a prompt. Knows nothing of Discord."""
