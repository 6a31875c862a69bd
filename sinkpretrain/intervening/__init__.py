"""Experiments with interventions: what they move, beside the untouched model and their controls."""
