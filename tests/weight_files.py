"""Checkpoints made by hand, for the tests that read them."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from reference import timm_shapes

from cait_viz.errors import CheckpointError
from cait_viz.model.config import CaiTConfig
from cait_viz.weights.registry import get_variant

TINY = CaiTConfig(
    image_size=64, projection_dim=48, sa_ffn_layers=3, ca_ffn_layers=2, num_heads=4, num_classes=10
)


def raw_file(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def refusal(action, *arguments, **options):
    with pytest.raises(CheckpointError) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 6000
    return message


def published(classes):
    config = replace(get_variant("cait_xxs24_224").config, num_classes=classes)
    return {name: np.zeros(shape, np.float16) for name, shape in timm_shapes(config).items()}
