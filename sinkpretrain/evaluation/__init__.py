"""What a checkpoint can do: tasks of lm-evaluation-harness, scored with and without ACT, item by item."""
