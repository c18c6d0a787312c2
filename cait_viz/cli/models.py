"""`cait-viz models`."""

from cait_viz.weights.registry import BUNDLED, VARIANTS, Variant
from cait_viz.weights.resolve import available

_DEFAULT_MARK = "*"


def models() -> None:
    """List the models, their size and accuracy, and which are on this machine."""
    here = available()
    titles = ("name", "parameters", "download", "top-1", "here")
    rows = [titles, *(_row(variant, variant.name in here) for variant in VARIANTS.values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = (number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
        print("  ".join((name.ljust(widths[0]), *cells)).rstrip())
    print("\ntop-1: accuracy on ImageNet-1k in percent, as timm measured it.")
    print(f"{_DEFAULT_MARK} is used unless --model names another; its accuracy: {BUNDLED.accuracy}.")


def _row(variant: Variant, here: bool) -> tuple[str, ...]:
    return (
        f"{variant.name} {_DEFAULT_MARK}" if variant is BUNDLED else variant.name,
        f"{variant.parameters / 1e6:.2f} M",
        f"{variant.download_megabytes} MB" if variant.repo_id else "none",
        f"{variant.top1:.1f}" if variant.top1 is not None else "-",
        "yes" if here else "no",
    )
