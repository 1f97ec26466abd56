"""Parts of condensation methods."""
