"""`/admin`: members, figures, the audit log, deletions, reports."""
