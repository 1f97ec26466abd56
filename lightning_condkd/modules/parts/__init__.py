"""Parts of CondKD."""
