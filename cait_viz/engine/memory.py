"""What a network needs of the machine's memory, and what there is."""

from contextlib import suppress
from pathlib import Path

import psutil

from cait_viz.errors import MemoryShortageError
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import count_parameters

CGROUP = Path("/sys/fs/cgroup")

# Measured with cait_s24_224 and cait_m36_384, for each byte of float32 weights: 2.3 while the graph is
# exported, 2.1 while it runs, of which the system can take back one; and what every process takes.
_BYTES_PER_WEIGHT_BYTE = 2.3
_BASE = 300 * 10**6
# Measured with the bundled network at 448 to 896 pixels: what a forward pass takes, in units of one block's
# attention.
_ATTENTIONS = 3


def weight_bytes(config: CaiTConfig) -> int:
    """The size of a network's weights in float32."""
    return 4 * count_parameters(config)


def attention_bytes(config: CaiTConfig) -> int:
    """The size of one self-attention block's attention in float32."""
    return 4 * config.num_heads * config.num_patches**2


def estimate(config: CaiTConfig) -> int:
    """How many bytes are needed at most to load a network and to look at an image."""
    weights, attention = weight_bytes(config), attention_bytes(config)
    kept = 4 * config.sa_ffn_layers * config.num_patches**2  # by a trace, the mean of each block's heads
    return round(_BYTES_PER_WEIGHT_BYTE * weights) + _ATTENTIONS * attention + kept + _BASE


def several_bytes(config: CaiTConfig) -> int:
    """How many bytes more are needed to look at several images at once, one on each core."""
    return (psutil.cpu_count() or 1) * _ATTENTIONS * attention_bytes(config)


def available() -> int:
    """How many bytes this process and those it starts may still take: the machine's, or its container's."""
    free = [int(psutil.virtual_memory().available)]
    with suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        # Files that were read and are not used now give way at once, as in what the machine has free.
        free.append(max(0, limit - used + int(counts.get("inactive_file", 0))))
    return min(free)


def require(name: str, config: CaiTConfig) -> None:
    """Refuse a network that the memory has no room for.

    Raises:
        MemoryShortageError: it needs more than there is; the message tells both.
    """
    needed, free = estimate(config), available()
    if needed > free:
        height, width = config.image_shape
        raise MemoryShortageError(
            f"{name} needs about {needed / 1e9:.1f} GB of memory for {width} × {height} pixels and "
            f"{free / 1e9:.1f} GB are free; choose a smaller model or input, or close other programs",
            needed - free,
        )
