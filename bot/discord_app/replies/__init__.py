"""One reply on Discord, from the question to the messages that show it, and what can be done with it afterwards."""
