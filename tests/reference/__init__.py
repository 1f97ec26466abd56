"""Formulas transcribed from the papers in plain loops: what the package is held against. They import nothing of it."""
