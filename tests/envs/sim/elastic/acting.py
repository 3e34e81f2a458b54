"""The actions of a manager, as a test in Python calls them: instances that `decode` adds are an array."""

from servegym.costmodels.native.jit import jit
from servegym.envs.sim.elastic import actions


@jit
def prefill(state, requests, instances, delay_s, striped):
    return actions.prefill(state, requests, requests.size, instances, instances.size, delay_s, striped)


@jit
def decode(state, group, added, delay_s, master_batch, fullest_first):
    for instance in added:
        actions.add_member(state, group, instance)
    actions.decode(state, group, added.size, delay_s, master_batch, fullest_first)


@jit
def merge(state, group, other):
    actions.merge(state, group, other)


@jit
def migrate(state, group, source, target, tokens):
    return actions.migrate(state, group, source, target, tokens)


@jit
def pause(state, request):
    actions.pause(state, request)


@jit
def reject(state, request):
    actions.reject(state, request)
