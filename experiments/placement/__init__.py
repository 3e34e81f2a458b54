"""Which replicas to make of a number of GPUs: DistServe's search, and what it is compared with."""
