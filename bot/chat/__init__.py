"""One chat turn, from a member's message to the stored reply. Knows no Discord."""
