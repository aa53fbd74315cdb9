"""What the bot remembers beyond the pairs of a prompt: summaries of dialogs and facts about members."""
