"""What is deleted: by age, and after a guild has gone."""
