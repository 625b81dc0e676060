"""HTML pages, each complete in one file: the report of a machine, and a kernel's source with its counts by line."""
