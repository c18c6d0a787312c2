"""Keras in a person's own process: as their settings have it, but for a floatx that it refuses."""

from cait_viz._backend import keras_settings, users_keras_settings

try:
    import keras as keras
except ValueError:
    # With a floatx of bfloat16 in its file of settings Keras cannot be imported. Ours are float32 anyway.
    with keras_settings({**users_keras_settings(), "floatx": "float32"}):
        import keras as keras
from keras import ops as ops
