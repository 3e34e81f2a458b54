"""How long iterations of elastic sequence parallelism take: `ElasticCost`, and what fills its tables."""
