"""What can stand in front of workers, by name: `FAMILY:POLICY`."""

from dataclasses import dataclass

from servegym.agents.serving.config import PLAIN
from servegym.agents.zoo import policy_folder
from servegym.costmodels.errors import InputError
from servegym.experiments.serving_routers.start import FAMILIES, find_family

PICKER, RAY = "picker", "ray"
"""Families whose policy is ours: behind Envoy, asked by `ext_proc`, and inside Ray Serve."""

RAY_OWN = "pow2"
"""Ray Serve's own router: of two replicas the one with the shorter queue."""

ENVIRONMENTS = {PICKER: "envoy", RAY: "ray_serve", "envoy": "envoy"}
"""Which Python a family runs in; the rest run in `routers`."""

SIMULATED = {
    "round_robin": "round_robin",
    "random": "random",
    "power_of_two": "power_of_two",
    "least_request": "power_of_two",  # Envoy's is the better of two drawn at random
    RAY_OWN: "power_of_two",
    "least_loaded": "jsq",
}
"""Policies of other people's routers that a router of the simulator does as well."""

ASK_SELDOM = ("sglang-router", "smg")
"""Families whose `power_of_two` goes by loads that are many seconds old: nothing in the simulator does."""


@dataclass(frozen=True)
class Contestant:
    """One router to be compared. InputError for a name that means none."""

    name: str

    def __post_init__(self) -> None:
        if self.is_ours:
            if self.policy not in PLAIN and not policy_folder(self.policy).is_dir():
                raise InputError(
                    f"routers: {self.name}: must be zoo:NAME, the folder of an exported policy, or one of "
                    f"{', '.join(PLAIN)}"
                )
        elif not (self.family == RAY and self.policy == RAY_OWN):
            if self.family not in FAMILIES:
                families = ", ".join((PICKER, RAY, *FAMILIES))
                raise InputError(f"routers: {self.name}: must be FAMILY:POLICY, of {families}")
            find_family(self.family, self.policy)

    @property
    def family(self) -> str:
        """What stands before the first colon."""
        return self.name.partition(":")[0]

    @property
    def policy(self) -> str:
        """What stands after it."""
        return self.name.partition(":")[2]

    @property
    def is_ours(self) -> bool:
        """Whether our runtime decides."""
        return self.family in (PICKER, RAY) and self.policy != RAY_OWN

    @property
    def proxy(self) -> str:
        """What passes its requests on: with the picker it is Envoy."""
        return "envoy" if self.family == PICKER else self.family

    @property
    def environment(self) -> str:
        """Which Python it runs in."""
        return ENVIRONMENTS.get(self.family, "routers")

    @property
    def simulated(self) -> str | None:
        """What does the same in the simulator; None: nothing."""
        if self.family in ASK_SELDOM and self.policy == "power_of_two":
            return None
        return SIMULATED.get(self.policy, self.policy if self.is_ours else None)
