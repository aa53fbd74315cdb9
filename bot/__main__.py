"""`python -m bot` is `guildllama`."""

from bot.cli import main

if __name__ == "__main__":
    main()
