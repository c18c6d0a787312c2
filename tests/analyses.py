"""Analyses of made-up numbers, and the images that are kept of them."""

import io

import numpy as np
from PIL import Image

from cait_viz.images.preprocess import Box
from cait_viz.results.analysis import Analysis, ModelInfo

LABELS = ("tench", "goldfish", "tabby, tabby cat", "Egyptian cat", "lynx")
MODEL = ModelInfo("cait_xxs24_224", "model.safetensors", "cd" * 32, 0, 224, 16, 224)


def attention_of(heads, patches, blocks=2, seed=0):
    random = np.random.default_rng(seed)
    rows = random.dirichlet(np.full(patches + 1, 0.5), size=(blocks, heads)).astype(np.float32)
    return {f"ca_ffn_block_{block}_att": rows[block] for block in range(blocks)}


def analysis_of(
    width=60, height=40, heads=4, probabilities=(0.05, 0.15, 0.6, 0.15, 0.05), **changes
) -> Analysis:
    picture = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    probabilities = np.array(probabilities, np.float32)
    side, half = min(width, height), abs(width - height) / 2
    left, top = (half, 0.0) if width > height else (0.0, half)
    given = {
        "image": picture,
        "image_name": "my cat.jpg",
        "file_sha256": "ab" * 32,
        "model": MODEL,
        "view": "crop",
        "box": Box(left, top, left + side, top + side),
        "labels": LABELS[: len(probabilities)],
        "probabilities": probabilities,
        "logits": np.log(probabilities),
        "class_attention": attention_of(heads, 196),
    }
    return Analysis(**(given | changes))


def read_png(data):
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture
