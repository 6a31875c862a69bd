"""Attention = weights (how scores become weights) x output transforms (what happens to the mixed values before W_O)."""
