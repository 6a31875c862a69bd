"""Mutation check: break the science on purpose, one line at a time, and see what catches it."""
