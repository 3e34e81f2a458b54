"""One scheduler a file: made for a fleet, called with every event."""

from tests.reference.batch.schedulers.clipper import Clipper
from tests.reference.batch.schedulers.clockwork import Clockwork
from tests.reference.batch.schedulers.nexus import Nexus
from tests.reference.batch.schedulers.shepherd import Shepherd
from tests.reference.batch.schedulers.symphony import Symphony
from tests.reference.batch.schedulers.tf_serving import TfServing
from tests.reference.batch.schedulers.triton import Triton

SCHEDULERS = {
    "symphony": Symphony,
    "clockwork": Clockwork,
    "shepherd": Shepherd,
    "nexus": Nexus,
    "clipper": Clipper,
    "tf_serving": TfServing,
    "triton": Triton,
}
