"""Live migration (Llumnix): KV goes over in stages while the request decodes, the rest when it has stopped.

The blocks of every stage are reserved at the target before it starts. See docs/simulator.md, "The fleet".
"""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.asking import forget_request
from servegym.envs.sim.llm.batch import count_out, evict, join_decodes, leave_decodes
from servegym.envs.sim.llm.cluster.events import schedule
from servegym.envs.sim.llm.cluster.links import send_blocks
from servegym.envs.sim.llm.cluster.places import count_in, release_kept, touch, wake
from servegym.envs.sim.llm.cluster.state import LAST_STAGE_SENT, LINK, ON_REPLICA, STAGE_SENT, Cluster
from servegym.envs.sim.llm.engine import PRIORITY
from servegym.envs.sim.llm.memory import blocks_for, kv_used_blocks
from servegym.envs.sim.llm.prefix_cache import publish
from servegym.envs.sim.llm.queues import append_running, remove_due, remove_running
from servegym.envs.sim.llm.state import DECODING, HELD, NOBODY, SENT, Fleet


@kernel
def is_migrating(cluster: Cluster, request_id: int) -> bool:
    """Whether a migration of the request is under way (it may turn out to be in vain)."""
    return bool(cluster.migrations[request_id].source != NOBODY)


@kernel
def decoded_tokens(fleet: Fleet, replica_id: int, request_id: int) -> int:
    """Computed tokens of a decode, as of the last completed iteration."""
    request = fleet.requests[request_id]
    held = 1 if request.chunk == HELD else 0
    tokens: int = request.anchor + fleet.replicas[replica_id].iteration + held
    return tokens


@routine
def start_migration(cluster: Cluster, request_id: int, target_id: int) -> None:
    """A decoding request starts to move to a replica that has a seat for it."""
    migration = cluster.migrations[request_id]
    migration.number += 1
    migration.source = cluster.journeys[request_id].replica
    migration.target = target_id
    migration.preemptions = cluster.fleet.requests[request_id].preemptions
    migration.stages = 0
    migration.blocks = 0
    cluster.fleet.replicas[target_id].reserved_seats += 1
    _start_next_stage(cluster, request_id)


@routine
def end_stage(cluster: Cluster, request_id: int, number: int) -> None:
    """A stage has been sent."""
    migration = cluster.migrations[request_id]
    if migration.source != NOBODY and migration.number == number:
        migration.stages += 1
        _start_next_stage(cluster, request_id)


@routine
def _start_next_stage(cluster: Cluster, request_id: int) -> None:
    """Sends the full blocks computed meanwhile; or stops the request, at once or at the iteration's end."""
    fleet = cluster.fleet
    migration = cluster.migrations[request_id]
    source_id = migration.source
    touch(cluster, source_id)
    if not _is_undisturbed(cluster, request_id):
        abort(cluster, request_id)
        return
    size = fleet.engines[fleet.replicas[source_id].group].block_size
    computed = decoded_tokens(fleet, source_id, request_id)
    left = blocks_for(computed, size) - migration.blocks
    if left <= cluster.last_stage_blocks or migration.stages == cluster.max_stages:
        if fleet.replicas[source_id].in_flight:
            _enter_stopping(cluster, request_id)
        else:
            _stop(cluster, request_id)
        return
    blocks = computed // size - migration.blocks
    if _reserve(cluster, request_id, blocks):
        schedule(cluster, send_blocks(cluster, source_id, blocks), STAGE_SENT, request_id, migration.number)
    else:
        abort(cluster, request_id)


@kernel
def _is_undisturbed(cluster: Cluster, request_id: int) -> bool:
    """The request decodes at the source, up to date, and has done so since its migration began."""
    migration = cluster.migrations[request_id]
    journey = cluster.journeys[request_id]
    request = cluster.fleet.requests[request_id]
    is_there = journey.place == ON_REPLICA and journey.replica == migration.source
    return bool(is_there and request.state == DECODING and request.preemptions == migration.preemptions)


@routine
def _reserve(cluster: Cluster, request_id: int, blocks: int) -> bool:
    """Takes free blocks at the target; False where there are fewer."""
    fleet = cluster.fleet
    migration = cluster.migrations[request_id]
    touch(cluster, migration.target)
    replica = fleet.replicas[migration.target]
    engine = fleet.engines[replica.group]
    if engine.num_kv_blocks - kv_used_blocks(fleet, migration.target) < blocks:
        return False
    migration.blocks += blocks
    replica.prefill_blocks += blocks
    replica.kept_blocks += blocks
    if engine.prefix_caching:
        evict(fleet, migration.target, replica.in_flight * replica.decodes_run)
    return True


@routine
def let_stop(cluster: Cluster, replica_id: int) -> None:
    """The iteration has ended after which migrating requests stop."""
    member = cluster.members[replica_id]
    request_id = member.stopping_first
    member.stopping_first = NOBODY
    while request_id != NOBODY:
        following = cluster.migrations[request_id].next_stopping
        if _is_undisturbed(cluster, request_id):
            _stop(cluster, request_id)
        else:
            abort(cluster, request_id)
        request_id = following


@routine
def _stop(cluster: Cluster, request_id: int) -> None:
    """The request leaves the source, which is between iterations, and what is left of its KV is sent."""
    fleet = cluster.fleet
    migration = cluster.migrations[request_id]
    source_id = migration.source
    replica = fleet.replicas[source_id]
    request = fleet.requests[request_id]
    request.computed = request.anchor + replica.iteration
    request.blocks = blocks_for(request.computed, fleet.engines[replica.group].block_size)
    left = request.blocks - migration.blocks
    if not _reserve(cluster, request_id, left):
        abort(cluster, request_id)
        return
    request.generated = request.computed + 1 - request.prompt_tokens
    request.state = SENT
    remove_due(fleet.due[source_id], replica.num_decodes, request_id)
    leave_decodes(fleet, source_id, request_id)
    remove_running(fleet, source_id, request_id)
    replica.prefill_blocks += request.blocks
    replica.kept_blocks += request.blocks
    count_out(fleet, source_id, request_id)
    wake(cluster, source_id)
    journey = cluster.journeys[request_id]
    journey.holder = source_id
    journey.replica = migration.target
    journey.place = LINK
    schedule(cluster, send_blocks(cluster, source_id, left), LAST_STAGE_SENT, request_id, migration.number)


@routine
def end_last_stage(cluster: Cluster, request_id: int, number: int) -> None:
    """All KV has arrived: the request joins the target's running ones, unless it was cancelled on the way."""
    migration = cluster.migrations[request_id]
    if migration.source == NOBODY or migration.number != number:
        return
    if cluster.journeys[request_id].place != LINK:
        abort(cluster, request_id)
        return
    release_kept(cluster, request_id)
    _give_up_reservation(cluster, request_id)
    _join(cluster, migration.target, request_id)


@routine
def _join(cluster: Cluster, replica_id: int, request_id: int) -> None:
    """A decode enters the running ones; it sits the iteration in flight out."""
    fleet = cluster.fleet
    replica = fleet.replicas[replica_id]
    request = fleet.requests[request_id]
    held = replica.in_flight
    left = request.output_tokens - request.generated
    append_running(fleet, replica_id, request_id)
    join_decodes(fleet, replica_id, request_id, request.computed - held, replica.iteration + held + left)
    request.chunk = HELD if held else 0
    replica.num_held += held
    forget_request(fleet, request_id)
    count_in(fleet, replica_id, request_id)
    cluster.journeys[request_id].place = ON_REPLICA
    cluster.journeys[request_id].migrations += 1
    engine = fleet.engines[replica.group]
    if engine.order == PRIORITY:  # else it keeps the key of its last queue
        request.key = request.priority
    if engine.prefix_caching:
        publish(fleet.cache, replica_id, request_id, request.computed // engine.block_size)


@routine
def _give_up_reservation(cluster: Cluster, request_id: int) -> None:
    """The migration is over; its seat and blocks at the target are free, and the target tries again."""
    fleet = cluster.fleet
    migration = cluster.migrations[request_id]
    migration.source = NOBODY
    touch(cluster, migration.target)
    wake(cluster, migration.target)
    replica = fleet.replicas[migration.target]
    if fleet.engines[replica.group].prefix_caching:
        evict(fleet, migration.target, replica.in_flight * replica.decodes_run)
    replica.reserved_seats -= 1
    replica.prefill_blocks -= migration.blocks
    replica.kept_blocks -= migration.blocks


@routine
def abort(cluster: Cluster, request_id: int) -> None:
    """The migration is over, in vain."""
    _leave_stopping(cluster, request_id)
    _give_up_reservation(cluster, request_id)


@routine
def abort_migrations(cluster: Cluster, replica_id: int) -> None:
    """Ends all migrations from or to a replica."""
    for request_id in range(cluster.migrations.shape[0]):
        migration = cluster.migrations[request_id]
        if migration.source != NOBODY and replica_id in (migration.source, migration.target):
            abort(cluster, request_id)


@routine
def is_awaited(cluster: Cluster, replica_id: int) -> bool:
    """Whether anybody migrates to a replica."""
    for request_id in range(cluster.migrations.shape[0]):
        migration = cluster.migrations[request_id]
        if migration.source != NOBODY and migration.target == replica_id:
            return True
    return False


@routine
def _enter_stopping(cluster: Cluster, request_id: int) -> None:
    member = cluster.members[cluster.migrations[request_id].source]
    cluster.migrations[request_id].next_stopping = NOBODY
    if member.stopping_first == NOBODY:
        member.stopping_first = request_id
    else:
        cluster.migrations[member.stopping_last].next_stopping = request_id
    member.stopping_last = request_id


@routine
def _leave_stopping(cluster: Cluster, request_id: int) -> None:
    """Takes a request, if it is there, out of the list of those that stop."""
    migrations = cluster.migrations
    member = cluster.members[migrations[request_id].source]
    before, other = NOBODY, member.stopping_first
    while other != request_id and other != NOBODY:
        before, other = other, migrations[other].next_stopping
    if other == NOBODY:
        return
    if before == NOBODY:
        member.stopping_first = migrations[other].next_stopping
    else:
        migrations[before].next_stopping = migrations[other].next_stopping
    if member.stopping_last == other:
        member.stopping_last = before
