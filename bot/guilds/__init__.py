"""What a guild and its members decide: settings, personas, privacy, retention. Knows no Discord and no prompt."""
