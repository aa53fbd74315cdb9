"""Settings as a panel: pages of texts, menus and buttons, for a guild and for one member."""
