"""What condensation methods are built from."""
