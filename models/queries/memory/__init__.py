"""What is remembered beyond the pairs of a prompt: facts of members, summaries of dialogs, and the work on both."""
