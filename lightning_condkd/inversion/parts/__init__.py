"""Parts of inversion methods."""
