"""How a turn becomes a prompt: who speaks, what is quoted, which pairs fit."""
