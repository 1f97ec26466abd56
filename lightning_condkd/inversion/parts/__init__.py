"""What inversion methods are built from."""
