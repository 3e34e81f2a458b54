"""The papers whose claims are measured."""

from servegym.experiments.claims import (
    distserve,
    epd,
    fastserve,
    inoue,
    intelligent_router,
    larry,
    learning_to_rank,
    llumnix,
    loongserve,
    mooncake,
    multi_bin,
    preble,
    sal,
    sarathi,
    smdp,
    splitwise,
    ssjf,
    symphony,
    trail,
)
from servegym.experiments.claims.claim import Paper

PAPERS: dict[str, Paper] = {
    "llumnix": llumnix.PAPER,
    "mooncake": mooncake.PAPER,
    "preble": preble.PAPER,
    "sal": sal.PAPER,
    "intelligent_router": intelligent_router.PAPER,
    "sarathi": sarathi.PAPER,
    "distserve": distserve.PAPER,
    "splitwise": splitwise.PAPER,
    "epd": epd.PAPER,
    "trail": trail.PAPER,
    "learning_to_rank": learning_to_rank.PAPER,
    "fastserve": fastserve.PAPER,
    "ssjf": ssjf.PAPER,
    "multi_bin": multi_bin.PAPER,
    "larry": larry.PAPER,
    "symphony": symphony.PAPER,
    "inoue": inoue.PAPER,
    "smdp": smdp.PAPER,
    "loongserve": loongserve.PAPER,
}
"""Every paper by the name it is chosen by, which is the name of its file."""

POLICIES: dict[str, tuple[str, ...]] = {
    "llumnix": ("llumnix_dispatch", "llumnix"),
    "mooncake": ("mooncake",),
    "preble": ("preble",),
    "sal": ("sal",),
    "intelligent_router": ("jsq", "max_capacity", "min_min"),
    "distserve": ("distserve",),
    "splitwise": ("splitwise",),
    "trail": ("trail",),
    "learning_to_rank": ("learning_to_rank",),
    "fastserve": ("fastserve",),
    "ssjf": ("ssjf",),
    "multi_bin": ("multi_bin",),
    "larry": ("larry", "conservative"),
    "symphony": ("symphony",),
    "loongserve": ("loongserve", "fixed_parallelism"),
}
"""Of each paper, the policies that its claims put to the test."""
