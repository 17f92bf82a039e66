"""Rules that decide whether a generated text is good enough."""
