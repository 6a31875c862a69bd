"""How scores become attention weights: one file a kind."""
