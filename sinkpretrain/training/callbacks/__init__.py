"""What happens around optimizer steps: one file a callback.

Callbacks put values into `module.row`; `RunRecord`, the last but for its mirrors, writes the row as one line.
"""
