"""What to measure and how often: parts of the configuration of `servegym profile`."""

from dataclasses import dataclass, field

from servegym.costmodels.errors import InputError


@dataclass
class Grid:
    """The batches to measure, each list in any order."""

    tokens: list[int] = field(default_factory=list)
    """In an iteration: rows of GEMMs, norms and activations."""
    sequences: list[int] = field(default_factory=list)
    """That sample a token: rows of the LM head and of the sampler; decodes of a batch."""
    prefill_batch: list[int] = field(default_factory=list)
    prefill_tokens: list[int] = field(default_factory=list)
    """New tokens of each sequence of a prefill."""
    prefill_history: list[int] = field(default_factory=list)
    """Computed tokens of each sequence of a prefill."""
    decode_history: list[int] = field(default_factory=list)
    """Computed tokens of each sequence of a decode."""
    max_prefill_tokens: int = 1
    """Larger prefills (all sequences, new and computed) are left out."""
    max_decode_tokens: int = 1
    """Larger decodes (all sequences, computed) are left out."""
    message_bytes: list[int] = field(default_factory=list)
    """Of all-reduces."""

    def check(self) -> None:
        """InputError for an empty list or a number below what makes sense, naming its key."""
        for name, values in vars(self).items():
            least = 0 if name.endswith("history") else 1
            numbers = values if isinstance(values, list) else [values]
            if not numbers or min(numbers) < least:
                raise InputError(f"grid.{name} = {values}: must be one or more numbers, at least {least}")


@dataclass
class Timing:
    """How often to measure."""

    warmups: int = 3
    """Runs that do not count."""
    repeats: int = 20
    """Runs whose median counts."""
    calls: int = 10
    """Calls in each run."""

    def check(self) -> None:
        """InputError, naming the key, for numbers that measure nothing."""
        for name, least in (("warmups", 0), ("repeats", 1), ("calls", 1)):
            if getattr(self, name) < least:
                raise InputError(f"timing.{name} = {getattr(self, name)}: must be at least {least}")
