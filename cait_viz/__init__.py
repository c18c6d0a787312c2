"""See where a CaiT vision transformer looks (Touvron et al. 2021, arXiv:2103.17239).

    import cait_viz

    engine = cait_viz.load_engine()                  # the bundled model; nothing is downloaded
    analysis = cait_viz.analyze("photo.jpg", engine)
    analysis.predictions                             # [(label, probability), …], best first
    analysis.overlay().save("overlay.png")           # where the class token looked

Reading, drawing and the registry start without Keras; it is imported with the first name that
needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cait_viz._version import __version__ as __version__

if TYPE_CHECKING:
    from cait_viz.api import analyze, load_engine, load_model, preprocess
    from cait_viz.errors import (
        CaitVizError,
        CheckpointError,
        DownloadError,
        EngineError,
        ImageError,
        SelectionError,
        UnknownModelError,
    )
    from cait_viz.images.read import read_image
    from cait_viz.model.cait import CaiT
    from cait_viz.model.config import CaiTConfig
    from cait_viz.questions import ablate, block_attention, explain, find_map, randomize, trace, trust
    from cait_viz.results.analysis import Analysis
    from cait_viz.results.comparison import draw_comparison
    from cait_viz.weights.registry import VARIANTS

_MODULES = {
    "Analysis": "results.analysis",
    "CaiT": "model.cait",
    "CaiTConfig": "model.config",
    "CaitVizError": "errors",
    "CheckpointError": "errors",
    "DownloadError": "errors",
    "EngineError": "errors",
    "ImageError": "errors",
    "SelectionError": "errors",
    "UnknownModelError": "errors",
    "VARIANTS": "weights.registry",
    "ablate": "questions",
    "analyze": "api",
    "block_attention": "questions",
    "draw_comparison": "results.comparison",
    "explain": "questions",
    "find_map": "questions",
    "load_engine": "api",
    "load_model": "api",
    "preprocess": "api",
    "randomize": "questions",
    "read_image": "images.read",
    "trace": "questions",
    "trust": "questions",
}

__all__ = [
    "VARIANTS",
    "Analysis",
    "CaiT",
    "CaiTConfig",
    "CaitVizError",
    "CheckpointError",
    "DownloadError",
    "EngineError",
    "ImageError",
    "SelectionError",
    "UnknownModelError",
    "ablate",
    "analyze",
    "block_attention",
    "draw_comparison",
    "explain",
    "find_map",
    "load_engine",
    "load_model",
    "preprocess",
    "randomize",
    "read_image",
    "trace",
    "trust",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module, or a public module, when the name is first used (PEP 562)."""
    if name in ("training", "tutorial"):
        return import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
