"""What a guild and its members decide: settings, personas, privacy, retention."""
