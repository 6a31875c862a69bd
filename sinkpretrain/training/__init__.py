"""Pretraining: the Lightning module, the optimizer and its schedule, callbacks, and `train`."""
