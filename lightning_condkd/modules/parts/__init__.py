"""What CondKD is built from."""
