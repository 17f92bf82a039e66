"""The terminal: one progress display, summaries, and examples and spaces to look at."""
