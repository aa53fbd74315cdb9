"""Who may use the operator's page: passwords, one-time links, sessions, forms, and what every request must be."""
