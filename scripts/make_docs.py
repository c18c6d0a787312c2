"""Make the pictures of the documentation, from the samples and the bundled model.

python scripts/make_docs.py        # writes docs/*.jpg
"""

import io
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import cait_viz
from cait_viz._resources import SAMPLES
from cait_viz.images.preprocess import fitted_size
from cait_viz.metrics.faithfulness import CENTER, RANDOM
from cait_viz.results.tracing import Trace, patch_at
from cait_viz.results.trustworthiness import Trust

DOCS = Path(__file__).parent.parent / "docs"
WIDTH, GAP = 1200, 12
THUMBNAIL = 320


def main() -> None:
    """Write every picture."""
    engine, image = cait_viz.load_engine(), SAMPLES / "pagoda.jpg"
    trace = cait_viz.trace(image, engine)
    block = cait_viz.block_attention(image, engine, 5)
    mixed = cait_viz.block_attention(image, engine, 5, mixed=True)
    patch = patch_at(block.grid_shape, 3, 4)
    on = trace.analysis
    beside(
        "patch",
        on.draw(block.grid(patch)),
        on.draw(block.grid(patch, incoming=True)),
        on.draw(mixed.grid(patch), signed=True),
    )
    save("heads", Image.open(io.BytesIO(on.figure("heads"))))
    save("saliency", Image.open(io.BytesIO(on.figure("saliency"))))
    beside("rollout", on.overlay(), on.draw(trace.rollout()))
    save("trace", Image.open(io.BytesIO(trace.figure())))
    save("distance", distances(trace))
    save("ablation", Image.open(io.BytesIO(cait_viz.ablate(image, engine).figure())))
    barn, church = (cait_viz.explain(image, engine, name) for name in ("barn", "church"))
    beside("relevance", on.draw(barn.grid()), on.draw(church.grid()))
    beside("gradient", on.draw(barn.grid("gradient")), on.draw(church.grid("gradient")))
    grids = {"attention": on.saliency(), "rollout": trace.rollout(), "relevance": barn.grid()}
    save("trust", curves(cait_viz.trust(image, engine, grids)))
    forgotten = cait_viz.randomize(image, engine)
    small = on.seen().reduced(THUMBNAIL)
    for name in ("attention", "relevance"):
        beside(f"randomize_{name}", *(small.draw(grid) for grid in forgotten.grids[name]))
    maps = [cait_viz.find_map(image, engine, method) for method in ("attention", "relevance")]
    save("compare", Image.open(io.BytesIO(cait_viz.draw_comparison(maps, dim_unseen=0.6))))
    whole = cait_viz.load_engine(image_size=fitted_size(on.size, 448, on.model.patch_size))
    finer = cait_viz.load_engine(image_size=448)
    seen = on, cait_viz.analyze(image, finer), cait_viz.analyze(image, whole, "squash")
    beside("sizes", *(one.overlay(interpolation="nearest", dim_unseen=0.6) for one in seen))


def beside(name: str, *images: Image.Image) -> None:
    """Save images of one size beside each other."""
    width, height = images[0].size
    sheet = Image.new("RGB", (len(images) * (width + GAP) - GAP, height), "white")
    for place, image in enumerate(images):
        sheet.paste(image, (place * (width + GAP), 0))
    save(name, sheet)


def distances(trace: Trace) -> Image.Image:
    """How far each head of each block looks."""
    figure = Figure((10, 3.2), dpi=150, layout="constrained")
    axes, blocks = figure.subplots(), range(1, trace.blocks + 1)
    axes.plot(blocks, trace.distances, ".", color="C0", alpha=0.6)
    axes.plot(blocks, trace.distances.mean(axis=1), color="C0")
    axes.set(
        xlabel="Self-attention block", ylabel="Mean attention distance, pixels", xticks=blocks, ylim=(0, None)
    )
    return drawn(figure)


def curves(trust: Trust) -> Image.Image:
    """The curves of deletion and of insertion."""
    figure = Figure((10, 3.6), dpi=150, layout="constrained")
    for axes, which in zip(figure.subplots(1, 2), ("deletion", "insertion"), strict=True):
        for name, both in trust.curves.items():
            curve = getattr(both, which)
            style = "--" if name in (CENTER, RANDOM) else "-"
            axes.plot(100 * curve.fractions, 100 * curve.probabilities, style, label=name)
        axes.set(title=which.capitalize(), xlabel="Pixels replaced, %", ylabel="Probability, %")
    axes.legend()
    return drawn(figure)


def drawn(figure: Figure) -> Image.Image:
    """A figure as an image."""
    file = io.BytesIO()
    figure.savefig(file)
    return Image.open(file)


def save(name: str, image: Image.Image) -> None:
    """Save an image at the width of a page."""
    image = image.convert("RGB")
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    image.save(DOCS / f"{name}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
