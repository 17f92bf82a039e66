"""Rules that generated texts and pairs must satisfy."""
