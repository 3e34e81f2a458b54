"""The papers whose claims are measured."""

from servegym.experiments.claims import (
    distserve,
    epd,
    intelligent_router,
    llumnix,
    mooncake,
    preble,
    sal,
    sarathi,
    splitwise,
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
}
"""Every paper by the name it is chosen by, which is the name of its file."""
