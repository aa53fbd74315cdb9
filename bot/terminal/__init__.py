"""The commands of the terminal. Only modules in here print."""
