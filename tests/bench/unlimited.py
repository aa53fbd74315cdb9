"""Settings of a bot whose members are not limited: a benchmark asks for more than people do."""

UNLIMITED = {
    "GUILDLLAMA_MEMBER_MINUTE_MESSAGES": "1000000",
    "GUILDLLAMA_MEMBER_RUNNING_REPLIES": "1000",
    "GUILDLLAMA_GUILD_MINUTE_MESSAGES": "1000000",
    "GUILDLLAMA_GUILD_RUNNING_REPLIES": "100000",
}
