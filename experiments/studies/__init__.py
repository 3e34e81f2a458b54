"""Many runs: their folders and records, what is missing of them, over many processes or machines."""
