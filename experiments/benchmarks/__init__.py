"""What `servegym bench` measures, one file per subject."""
