"""Who may do what: the actions, the one authorisation function, and the gate that every interaction passes."""
