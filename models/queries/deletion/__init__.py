"""What is deleted: by age, by a member's wish, after a guild has gone."""
