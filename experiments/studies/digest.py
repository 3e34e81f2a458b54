"""A name for a configuration made of its content: the same keys and values, the same folder."""

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

APART_FROM = ("run_dir", "out", "resume", "tracking")
"""Keys that change nothing in what comes out."""

DIGITS = 8


def digest_of(content: Any) -> str:
    """Eight hexadecimal digits of JSON values; the order of keys does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def config_digest(_root_: DictConfig) -> str:
    """Of a composed configuration, but for APART_FROM; `${digest:}` in YAML."""
    keys = [str(key) for key in _root_ if key not in (*APART_FROM, "hydra")]
    content = {}
    for key in keys:
        value = None if OmegaConf.is_missing(_root_, key) else _root_[key]
        content[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return digest_of(content)


def register() -> None:
    """Makes `${digest:}` known. Idempotent."""
    OmegaConf.register_new_resolver("digest", config_digest, replace=True)
