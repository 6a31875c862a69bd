"""Changes to a model's forward pass that put the causal chain of sinks to the test: one file each."""
