"""A chat turn from message to stored reply. It knows no Discord."""
