"""The papers whose claims are measured."""

from servegym.experiments.claims import intelligent_router, llumnix, mooncake, preble, sal
from servegym.experiments.claims.claim import Paper

PAPERS: dict[str, Paper] = {
    "llumnix": llumnix.PAPER,
    "mooncake": mooncake.PAPER,
    "preble": preble.PAPER,
    "sal": sal.PAPER,
    "intelligent_router": intelligent_router.PAPER,
}
"""Every paper by the name it is chosen by, which is the name of its file."""
