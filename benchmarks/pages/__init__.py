"""Fill the tables and figures of the pages from the result files."""
