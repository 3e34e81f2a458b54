"""An optional signature of an artifact: HMAC-SHA256 of `policy.json`, which holds the digests of the rest.

Whoever has the key can sign and verify: it says that a file comes from one's own hands, as it left them.
"""

import hmac
from pathlib import Path

from servegym.agents.serving.artifact.files import read_file
from servegym.agents.serving.artifact.schema import DESCRIPTION_FILE, SIGNATURE_FILE
from servegym.costmodels.errors import InputError

LEAST_KEY_BYTES, MOST_KEY_BYTES = 32, 4096


def read_key(path: Path) -> bytes:
    """A key file's bytes, white space at its ends left out. InputError where it is missing, short or long."""
    try:
        with path.open("rb") as file:
            key = file.read(MOST_KEY_BYTES + 1).strip()
    except OSError as error:
        raise InputError(f"key = {path}: cannot be read ({error.strerror}); must be a file") from error
    if not LEAST_KEY_BYTES <= len(key) <= MOST_KEY_BYTES:
        raise InputError(
            f"key = {path}: {len(key)} bytes; must be {LEAST_KEY_BYTES} to {MOST_KEY_BYTES}, at random"
        )
    return key


def sign(content: bytes, key: bytes) -> str:
    """The line of `policy.sig` for what `policy.json` holds."""
    return hmac.new(key, content, "sha256").hexdigest() + "\n"


def check_signature(folder: Path, content: bytes, key: bytes) -> None:
    """InputError unless `policy.sig` is there and was made with the key for `content`."""
    found = read_file(folder / SIGNATURE_FILE)
    if not hmac.compare_digest(found, sign(content, key).encode()):
        raise InputError(
            f"{folder / SIGNATURE_FILE}: not of this key and {DESCRIPTION_FILE}: changed, or another's"
        )
