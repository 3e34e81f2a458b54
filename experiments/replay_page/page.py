"""Writes an episode as one HTML file that needs nothing else."""

import base64
import gzip
import json
from importlib import resources
from pathlib import Path

import numpy as np

from servegym.costmodels.output_file import output_file
from servegym.experiments.replay_page.episode import Episode

SCRIPTS = ("episode", "series", "lanes", "axis", "words", "lane_view", "overview", "panel", "page")
"""What the page runs, in this order, as one script."""

DIFFERENCES = ("arrival", "kv_time", "kv_blocks")
"""Arrays that are written as differences to the number before, which compress better."""


def write_page(path: Path, episode: Episode) -> None:
    """The page as one file, there as a whole or not at all. InputError where it cannot be written."""
    about = {**episode.about, "arrays": _directory(episode), "differences": DIFFERENCES}
    script = "".join(_text(f"{name}.js") for name in SCRIPTS)
    parts = {
        "<!--style-->": f"<style>\n{_text('page.css')}</style>",
        "<!--about-->": _block("about", "application/json", json.dumps(about).replace("<", "\\u003c")),
        "<!--arrays-->": _block("arrays", "text/plain", _packed(episode)),
        "<!--script-->": f'<script type="module">\n{script}</script>',
    }
    html = _text("page.html")
    for place, content in parts.items():
        html = html.replace(place, content)
    with output_file(path) as file:
        file.write(html.encode())


def _directory(episode: Episode) -> list[tuple[str, str, int]]:
    """Name, type and length of each array in the order in which they are packed: large numbers first."""
    arrays = sorted(episode.arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    return [(name, array.dtype.name, len(array)) for name, array in arrays]


def _packed(episode: Episode) -> str:
    """The arrays behind each other, little-endian, compressed with gzip, in base64."""
    parts = []
    for name, _, _ in _directory(episode):
        array = episode.arrays[name]
        if name in DIFFERENCES:
            array = np.diff(array, prepend=array.dtype.type(0))  # modulo 2^32
        parts.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return base64.b64encode(gzip.compress(b"".join(parts), 6, mtime=0)).decode()


def _block(name: str, kind: str, text: str) -> str:
    return f'<script type="{kind}" id="{name}">{text}</script>'


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
