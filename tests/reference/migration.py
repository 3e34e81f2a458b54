"""Live migration (Llumnix): KV goes over in stages while the request decodes; the rest after it stopped."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.reference.blocks import Block
from tests.reference.request import Request

if TYPE_CHECKING:
    from tests.reference.fleet import Fleet


@dataclass(eq=False)
class Migration:
    """A request on its way from one replica to another."""

    request: Request
    source: Any
    target: Any
    preemptions: int  # of the request, at the start
    sent: int = 0  # blocks
    stages: int = 0
    reserved: list[Block] = field(default_factory=list)  # at the target

    def undisturbed(self) -> bool:
        """The request still decodes at the source, and has done so since the start."""
        request = self.request
        here = request.place == "running" and request.replica == self.source.number
        return here and request.preemptions == self.preemptions

    def reserve(self, blocks: int) -> bool:
        """Takes blocks at the target; false where they are lacking."""
        if len(self.target.pool.free) < blocks:
            return False
        self.reserved += self.target.pool.take(blocks)
        return True


def start(fleet: "Fleet", request: Request, number: int, now_s: float) -> None:
    """Nothing happens where that cannot be done."""
    source, target = fleet.replicas[request.replica], fleet.replicas[number]
    decoding = request.place == "running" and request.decoding
    moving = any(m.request is request for m in fleet.migrations)
    fit = target.available and target.role in ("mixed", "decode") and target is not source
    if not (decoding and fit) or moving or source.role == "encode":
        return
    if target.engine.block_size != source.engine.block_size or target.why_unfit(request):
        return
    if target.num_seats < 1:
        return
    target.reserved_seats += 1
    new = Migration(request, source, target, request.preemptions)
    fleet.migrations.append(new)
    _next_stage(fleet, new, now_s)


def _next_stage(fleet: "Fleet", migration: Migration, now_s: float) -> None:
    source, request = migration.source, migration.request
    if not migration.undisturbed():
        _abort(fleet, migration)
        return
    left = source.engine.blocks_for(request.computed) - migration.sent
    settings = fleet.settings
    if left <= settings.last_stage_blocks or migration.stages == settings.max_stages:
        if source.in_flight:
            source.stopping.append(migration)
        else:
            stop(fleet, migration, now_s)
        return
    blocks = request.computed // source.engine.block_size - migration.sent
    if not migration.reserve(blocks):
        _abort(fleet, migration)
        return

    def sent(now_s: float) -> None:
        if migration in fleet.migrations:
            migration.sent += blocks
            migration.stages += 1
            _next_stage(fleet, migration, now_s)

    fleet.at(source.link.send(blocks, now_s), sent)


def stop(fleet: "Fleet", migration: Migration, now_s: float) -> None:
    """The request leaves the source's batch, and what is left of its KV is sent."""
    source, target, request = migration.source, migration.target, migration.request
    blocks = len(request.table) - migration.sent
    if not migration.undisturbed() or not migration.reserve(blocks):
        _abort(fleet, migration)
        return
    source.running.remove(request)
    request.place, request.replica = "link", target.number
    source.woken = True
    fleet.at(source.link.send(blocks, now_s), lambda now_s: _join(fleet, migration))


def _join(fleet: "Fleet", migration: Migration) -> None:
    source, target, request = migration.source, migration.target, migration.request
    if migration not in fleet.migrations:
        return
    if request.place != "link":  # cancelled on the way
        _abort(fleet, migration)
        return
    fleet.migrations.remove(migration)
    target.reserved_seats -= 1
    source.release(request)
    request.table, request.holder = migration.reserved, target.number
    request.place, request.rank_memory = "running", None
    request.migrations += 1
    target.running.append(request)
    if target.engine.order == "priority":
        request.rank_key = request.priority
    target.woken = True
    if target.pool.sharing:
        size = target.engine.block_size
        target.pool.publish(request.table, request.contents(size)[: request.computed // size])


def _abort(fleet: "Fleet", migration: Migration) -> None:
    fleet.migrations.remove(migration)
    target = migration.target
    target.reserved_seats -= 1
    target.pool.give_back(migration.reserved)
    target.woken = True


def failed(fleet: "Fleet", replica: Any) -> None:
    """Migrations from or to a replica that has failed are over."""
    for migration in list(fleet.migrations):
        if replica in (migration.source, migration.target):
            _abort(fleet, migration)
    for source in fleet.replicas:
        source.stopping = [m for m in source.stopping if m in fleet.migrations]
