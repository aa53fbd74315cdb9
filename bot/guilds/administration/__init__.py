"""What admins do in their guild: blocks, deletions that can be taken back, reports, figures."""
