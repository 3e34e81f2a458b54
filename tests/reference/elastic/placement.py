"""Where KV tokens go: of prefills, and of the decodes that instances are masters of."""

from collections.abc import Mapping, Sequence

UNLIMITED = 2**31 - 1


def by_falling_used(instances: Sequence[int], used: Mapping[int, int]) -> list[int]:
    """The fullest first; of equals the smaller number."""
    return sorted(instances, key=lambda i: (-used[i], i))


def packed(
    lengths: Sequence[int], instances: Sequence[int], used: Mapping[int, int], capacity: int
) -> list[dict[int, int]]:
    """Of each request its tokens by instance: one token after the other, to the first that has room."""
    free = {i: capacity - used[i] for i in instances}
    order = by_falling_used(instances, used)
    places = []
    for length in lengths:
        place: dict[int, int] = {}
        for i in order:
            tokens = min(free[i], length - sum(place.values()))
            if tokens > 0:
                place[i] = tokens
                free[i] -= tokens
        places.append(place)
    return places


def striped(lengths: Sequence[int], instances: Sequence[int]) -> list[dict[int, int]]:
    """Of each request its tokens by instance: the same everywhere, as far as they can be divided."""
    k = len(instances)
    return [{i: (n - j + k - 1) // k for j, i in enumerate(instances)} for n in lengths]


def masters(
    requests: int,
    members: Sequence[int],
    used: Mapping[int, int],
    capacity: int,
    master_batch: int,
    fullest_first: bool,
) -> list[tuple[int, int]]:
    """(member, its mini-batch) of all members in order; together fewer than `requests` without room."""
    order = by_falling_used(members, used) if fullest_first else sorted(members, key=lambda i: (used[i], i))
    m, left = len(order), requests
    size = {}
    for j, i in enumerate(order):
        size[i] = min(left, capacity - used[i], max(left // (m - j), master_batch))
        left -= size[i]
    for i in order:
        more = min(left, capacity - used[i] - size[i])
        size[i] += more
        left -= more
    return [(i, size[i]) for i in order]
