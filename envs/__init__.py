"""Environments. Importing this package registers them with Gymnasium.

`gymnasium.make("servegym.envs:servegym/Routing-v0")` and `gymnasium.make_vec` with the same name work
anywhere; nothing heavy is imported before an environment is made.
"""

import gymnasium as gym

gym.register(
    id="servegym/Routing-v0",
    entry_point="servegym.envs.routing.env:RoutingEnv",
    vector_entry_point="servegym.envs.routing.vector:RoutingVectorEnv",
)

gym.register(
    id="servegym/Batching-v0",
    entry_point="servegym.envs.batching.env:BatchingEnv",
    vector_entry_point="servegym.envs.batching.vector:BatchingVectorEnv",
)

gym.register(
    id="servegym/TwoLevel-v0",
    entry_point="servegym.envs.two_level.env:TwoLevelEnv",
    vector_entry_point="servegym.envs.two_level.vector:TwoLevelVectorEnv",
)

gym.register(
    id="servegym/DeferredBatching-v0",
    entry_point="servegym.envs.deferred_batching.env:DeferredBatchingEnv",
    vector_entry_point="servegym.envs.deferred_batching.vector:DeferredBatchingVectorEnv",
)

gym.register(
    id="servegym/DynamicBatching-v0",
    entry_point="servegym.envs.dynamic_batching.env:DynamicBatchingEnv",
    vector_entry_point="servegym.envs.dynamic_batching.vector:DynamicBatchingVectorEnv",
)

gym.register(
    id="servegym/ElasticSequenceParallel-v0",
    entry_point="servegym.envs.elastic_sequence_parallel.env:ElasticSequenceParallelEnv",
    vector_entry_point="servegym.envs.elastic_sequence_parallel.vector:ElasticSequenceParallelVectorEnv",
)
