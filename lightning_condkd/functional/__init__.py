"""Pure tensor functions: every formula of the package, one file per subject."""
