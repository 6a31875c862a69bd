"""What happens to the mixed values of a head before W_O: one file a kind."""
