"""The messages of one reply on Discord: sent once, edited, recorded, found again."""
