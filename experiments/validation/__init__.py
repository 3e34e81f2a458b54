"""What `servegym validate` compares, one file per subject."""
