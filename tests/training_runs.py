"""A short training, and what is left of one; the images are conftest's `image_folder`."""

import contextlib
import csv
from dataclasses import replace

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
