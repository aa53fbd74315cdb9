"""The files of a message in a chat turn: read, fitted into the prompt, told of, and pictures kept for a while."""
