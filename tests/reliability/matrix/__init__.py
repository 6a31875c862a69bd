"""The fault matrix: what must hold when a run is killed, starved, poisoned or lied to; one file a fault."""
