"""Mined pairs: AlignX's own construction from threads of real responses (the paper's Algorithm 1)."""
