"""Parts of alignments."""
