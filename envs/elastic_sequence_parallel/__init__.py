"""`servegym/ElasticSequenceParallel-v0`: what a group of instances prefills and decodes, at which degree."""
