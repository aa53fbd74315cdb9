"""The face of a persona: `/persona face`, pictures, and the bot's own profile in a guild."""
