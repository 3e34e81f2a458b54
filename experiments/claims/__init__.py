"""What papers say of their systems, and what this simulator says of them: one file per paper."""
