"""A short training, and what is left of one; the images are conftest's `image_folder`."""

import contextlib
import csv
from dataclasses import replace

import numpy as np
import tensorflow as tf
from safetensors import safe_open

from cait_viz.training import finetune
from cait_viz.training.config import FINETUNING, Augmentation, Stage

QUICK = replace(
    FINETUNING, stages=(Stage(32, 1), Stage(None, 1)), batch_size=4, augmentation=Augmentation(mixup=0.1)
)


@contextlib.contextmanager
def eager_steps():
    """TensorFlow runs operations as they come: to make their graph takes it as long as ten small steps."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def finetune_briefly(image_folder, out, weights, epochs, options):
    """At one low resolution and without validation, for tests of what happens around the steps."""
    config = replace(QUICK, stages=(Stage(32, epochs),))
    return finetune(image_folder, out, weights=weights, validation=0.0, config=config, options=options)


def logged_steps(out):
    return [int(row["step"]) for row in csv.DictReader((out / "log.csv").open())]


def tensors(path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def save_teacher(path, outputs=("logits", "features"), scale=10.0, size=None, batch=None):
    """Save an ONNX teacher of three classes: its logits are ten times the means of red, green and blue.

    Its features are the means of each patch of 16 x 16 pixels.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    logits, features = outputs
    nodes = [
        helper.make_node("AveragePool", ["images"], [features], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("GlobalAveragePool", [features], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Mul", ["flat", "scale"], [logits]),
    ]
    shapes = {
        "images": [batch or "n", 3, size or "h", size or "w"],
        logits: ["n", 3],
        features: ["n", 3, "rows", "cols"],
    }
    told = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    }
    constant = numpy_helper.from_array(np.array(scale, np.float32), "scale")
    graph = helper.make_graph(nodes, "teacher", [told["images"]], [told[logits], told[features]], [constant])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path
