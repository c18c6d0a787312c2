"""Where the files that come with the program lie: in a checkout, or inside an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BUNDLE = _PACKAGE / "_bundle"  # app.py, assets/ and .streamlit/ in a wheel, see pyproject.toml

ROOT = _BUNDLE if _BUNDLE.is_dir() else _PACKAGE.parent

APP = ROOT / "app.py"
ASSETS = ROOT / "assets"
BUNDLED_WEIGHTS = ASSETS / "bundled.safetensors"
IMAGENET_KINDS = ASSETS / "imagenet_kinds.txt"
IMAGENET_LABELS = ASSETS / "imagenet_labels.txt"
IMAGENET_SYNSETS = ASSETS / "imagenet_synsets.txt"
SAMPLES = ASSETS / "samples"
