"""What MkDocs does beyond mkdocs.yml: pages from outside docs/, links that leave it, policies by family.

The reference is made by reading the packages, never importing them, under the names they are installed by.
Files such as CHANGELOG.md stay where people look for them and are pages of the site as well. A link to a file
that is no page, such as a module, is shown as the file's path: the site stands alone.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("agents", "costmodels", "envs", "experiments")

OUTSIDE = {
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "CITATION.cff": "project/CITATION.cff",
    **{
        f"experiments/results/{suite}/summary.md": f"results/{suite}.md"
        for suite in ("routing", "batching", "two_level")
    },
}
"""Files of the repository that are no part of docs/, and where they are in the site."""

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^()\s#]+)(#[^()\s]*)?\)")
"""A relative link in Markdown: text, path, anchor."""

POLICY = re.compile(r"^\| \[(\w+)\]\((\w+\.md)\) \| (\w+) \|", re.MULTILINE)
"""A row of docs/policies/README.md: name, page, family."""


def on_startup(**_: Any) -> None:
    """Makes build/packages/servegym for mkdocstrings, which looks for it when it is configured."""
    link_packages(ROOT / "build/packages/servegym")


def on_config(config: MkDocsConfig) -> None:
    """Lists the pages of policies in the navigation."""
    table = (ROOT / "docs/policies/README.md").read_text(encoding="utf-8")
    for entry in config.nav or []:
        if entry.get("Policies") == "policies/":
            entry["Policies"] = policies_by_family(table)


def link_packages(folder: Path) -> None:
    """Links to the folders at the top, as `servegym` has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        link = folder / package
        if not link.is_symlink():
            link.symlink_to(ROOT / package)


@event_priority(-100)  # after the index has been written
def on_post_build(config: MkDocsConfig) -> None:
    """Makes search work for pages that are opened from a folder: the index as a script."""
    index = Path(config.site_dir, "search/search_index.json")
    index.with_suffix(".js").write_text(
        f"var __index = {index.read_text(encoding='utf-8')}", encoding="utf-8"
    )


def policies_by_family(table: str) -> list[Any]:
    """Navigation of the overview, then of each family ("Batch schedulers"), in the order of the table."""
    families: dict[str, list[dict[str, str]]] = {}
    for name, page, family in POLICY.findall(table):
        title = family.replace("_", " ").capitalize() + "s"
        families.setdefault(title, []).append({name: f"policies/{page}"})
    return ["policies/README.md", *({title: pages} for title, pages in families.items())]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages from outside docs/."""
    for source, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text(encoding="utf-8")))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Makes links good for the site."""
    return with_links_of_the_site(markdown, page.file.src_uri)


def with_links_of_the_site(markdown: str, uri: str) -> str:
    """The text of page `uri`, whose links are relative to where the text stands in the repository."""
    sources = {page: source for source, page in OUTSIDE.items()}
    folder = PurePosixPath(sources.get(uri, f"docs/{uri}")).parent
    here = PurePosixPath(uri).parent

    def replaced(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        target = os.path.normpath(folder / path)
        if not (ROOT / target).exists():
            return link[0]  # as it is: MkDocs says what is broken
        page = OUTSIDE.get(target)
        if page is None and target.startswith("docs/"):
            page = target.removeprefix("docs/")
        if page is not None:
            return f"[{text}]({os.path.relpath(page, here)}{anchor})"
        return text if text.strip("`") == target else f"{text} (`{target}`)"

    return LINK.sub(replaced, markdown)
