"""The names that sources of timings give to GPUs and models, and our presets for them."""

import re

from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import MODELS, ModelSpec

_DEVICES = {
    "a100": "a100_sxm",
    "a10080gb": "a100_sxm",
    "a100dgx": "a100_sxm",
    "nvidiaa100sxm480gb": "a100_sxm",
    "h100": "h100_sxm",
    "h10080gb": "h100_sxm",
    "h100dgx": "h100_sxm",
    "nvidiah10080gbhbm3": "h100_sxm",
    "rtxpro6000server": "rtx_pro_6000",
    "rtxpro6000": "rtx_pro_6000",
    "nvidiartxpro6000blackwellserveredition": "rtx_pro_6000",
}
_MODELS = {
    "llama27b": "llama_2_7b",
    "llama27bhf": "llama_2_7b",
    "llama318b": "llama_3_1_8b",
    "llama318binstruct": "llama_3_1_8b",
    "metallama38b": "llama_3_1_8b",  # the same shapes
    "llama3170b": "llama_3_1_70b",
    "llama3170binstruct": "llama_3_1_70b",
    "metallama370b": "llama_3_1_70b",
}


def device_name(name: str) -> str:
    """Our name of a GPU where we know the source's (letters and digits count), else the source's own."""
    return _DEVICES.get(_bare(name), name)


def model_of(name: str, where: str) -> ModelSpec:
    """The preset of a model by the source's name, such as "meta-llama/Llama-3.1-8B".

    Raises InputError that begins with `where` for a model without a preset.
    """
    preset = _MODELS.get(_bare(name.rsplit("/", 1)[-1]), name)
    if preset not in MODELS:
        raise InputError(f"{where}: model {name} has no preset, known: {', '.join(MODELS)}")
    return MODELS[preset]


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
