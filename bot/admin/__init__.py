"""`guildllama admin`: a web page on which the operator looks into the database, and does three things there."""
