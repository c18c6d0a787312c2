"""MkDocs' hook for `mkdocs.yml`: files beside docs/ that are pages of the documentation, or linked by one.

They stay where the repository has them, and links between them and docs/ lead to the same file there and on
the site.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

BESIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "assets/MODEL_CARD.md",
    "assets/bundled.json",
    "assets/bundled_samples.jpg",
    "assets/samples/README.md",
    "benchmarks/README.md",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files, each under its own path."""
    for name in BESIDE:
        path = Path(name)
        file = File(
            f"../{name}",
            config.docs_dir,
            config.site_dir,
            config.use_directory_urls,
            dest_uri=(path.with_suffix(".html") if path.suffix == ".md" else path).as_posix(),
            inclusion=InclusionLevel.INCLUDED,  # MkDocs leaves out what begins with a dot
        )
        files.append(file)
    return files
