"""Where the small model of these tests has its super neurons."""

SUPER = {0: [3, 17], 2: [5]}  # layer -> neurons
