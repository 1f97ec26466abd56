"""Scripts that measure, by subject; README.md says which."""
