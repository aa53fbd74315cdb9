"""What the operator's page reads: lists by pages, conversations, search, figures. Each read is bounded."""
