"""The steps of a training: loss, optimizer, change of resolution, state; Keras 3 code for any backend."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cait_viz._checks import all_finite
from cait_viz._keras import keras, ops
from cait_viz.errors import TrainingError
from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import assign, resample_positions, state_dict
from cait_viz.training.config import TrainingConfig, stage_ends
from cait_viz.training.loader import Loader, Targets
from cait_viz.training.state import SavedState, save_state

# Batches made while an accelerator is busy with the one before.
_AHEAD = 3
# Share of its highest value that the learning rate falls to.
_LAST_RATE = 0.01
# Number of axes of dense and convolution kernels, which alone decay: biases, norms and LayerScale have one,
# the class token and the position embedding three.
_KERNEL_AXES = (2, 4)
# The layers whose kernels Muon leaves to AdamW: it is for maps between features, not to classes, and the maps
# across heads are too small.
_NOT_FOR_MUON = ["/head/", "feature_head", "proj_l", "proj_w"]
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "resource_exhausted", "resourceexhausted", "memoryerror")


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Keras' default type is float32 in this block, whatever the user's settings say."""
    before = keras.config.floatx()
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(before)


class TrainingModel(keras.Model):
    """A CaiT and, with a teacher, a linear head that predicts the teacher's features from its patches.

    A call on images (B, S, S, 3) returns {"classes": logits (B, classes)} and, given a teacher's number of
    channels, "features" (B, rows, cols, channels), in float32. That head is not kept after the training.
    """

    def __init__(self, cait: CaiT, channels: int | None = None) -> None:
        super().__init__(name="training_model")
        self.cait = cait
        self.feature_head = None
        if channels is not None:
            self.feature_head = keras.layers.Dense(channels, name="feature_head", dtype="float32")
            self.feature_head.build((None, None, cait.config.projection_dim))
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> dict[str, Any]:
        """The outputs for normalized images."""
        patches = self.cait.encode(images, training=training)
        logits, _ = self.cait.classify(patches)
        outputs = {"classes": ops.cast(logits, "float32")}
        if self.feature_head is not None:
            features = self.feature_head(ops.cast(patches, "float32"))
            grid = self.cait.config.grid_shape
            outputs["features"] = ops.reshape(features, (-1, *grid, features.shape[-1]))
        return outputs

    def compile_losses(self, optimizer: Any, feature_weight: float) -> None:
        """Compile the model with the cross-entropy to the targets and the squared error of the features.

        The cross-entropy to a teacher's distribution is the Kullback-Leibler divergence from it plus the
        teacher's own entropy, which no weight changes (Beyer et al. 2022, section 3).
        """
        loss: dict[str, Any] = {"classes": keras.losses.CategoricalCrossentropy(from_logits=True)}
        weights = {"classes": 1.0}
        if self.feature_head is not None:
            loss["features"], weights["features"] = _feature_error, feature_weight
        # XLA compiles for a minute on a CPU and is no faster there; JAX has nothing else.
        jit = keras.backend.backend() == "jax"
        self.compile(optimizer=optimizer, loss=loss, loss_weights=weights, jit_compile=jit)


def _feature_error(wanted: Any, given: Any) -> Any:
    """Squared error of features, (B, rows, cols); the wanted ones are resized to the given ones' grid."""
    resized = ops.image.resize(wanted, given.shape[1:3], data_format="channels_last")
    return ops.mean(ops.square(resized - given), axis=-1)


class Trainer:
    """A training: its model, its steps and its state.

    Args:
        architecture: of the network; its `image_size` is what `weights` belong to.
        weights: timm name -> array, to start from; None starts from random weights.
        loader: the batches.
        config: how to train.
        identity: what a saved state has to agree with for the training to be resumed from it.
    """

    model: TrainingModel  # with the weights of the last step; another one at each resolution

    def __init__(
        self,
        architecture: CaiTConfig,
        weights: Mapping[str, np.ndarray] | None,
        loader: Loader,
        config: TrainingConfig,
        identity: Mapping[str, Any],
    ) -> None:
        keras.utils.set_random_seed(config.seed)
        self.loader, self._config, self._identity = loader, config, identity
        self.step = 0  # number of steps done
        self.seconds = 0.0  # that they took; counted by whoever runs them, and part of the state
        # (classes,), how often each class was shown; a target of several classes counts by its shares.
        self._shown = np.zeros(architecture.num_classes)
        self.ends = stage_ends(config.stages, loader.steps_per_epoch)  # steps after which each stage ends
        self.steps = self.ends[-1]
        self._architecture = replace(architecture, sd_prob=config.sd_prob)
        self._build(0)
        if weights is not None:
            positions = resample_positions(weights["pos_embed"], self.architecture.grid_shape)
            assign(self.model.cait, {**weights, "pos_embed": positions})

    @property
    def architecture(self) -> CaiTConfig:
        """The network's, at the current resolution."""
        return self.model.cait.config

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def run(self, stop: int | None = None) -> Iterator[dict[str, float]]:
        """Do the steps up to `stop`, all by default; yields the losses of each.

        Between two steps the state may be saved and the model be used. A TrainingError if the loss is not
        finite, or the memory not enough.
        """
        last = self.steps if stop is None else min(stop, self.steps)
        ahead = 0 if device().startswith("cpu") else _AHEAD
        while self.step < last:
            self._enter(next(stage for stage, end in enumerate(self.ends) if self.step < end))
            end, side = min(last, self.ends[self._stage]), self.architecture.image_shape[0]
            with closing(self.loader.stream(self.step, end, side, ahead)) as stream:
                for images, targets in stream:
                    yield self._learn(images, targets)

    def _learn(self, images: np.ndarray, targets: Targets) -> dict[str, float]:
        try:
            logs = self.model.train_on_batch(images, targets, return_dict=True)
        except Exception as error:  # each backend has its own class for this
            words = f"{type(error).__name__} {error}".lower()
            if not any(sign in words for sign in _OUT_OF_MEMORY):
                raise
            raise TrainingError(
                f"the memory is not enough for {len(images)} images of {images.shape[1]} pixels at a time; "
                "choose a smaller --batch-size, or bfloat16"
            ) from None
        losses = {name: float(value) for name, value in logs.items()}
        if not np.isfinite(losses["loss"]):
            raise TrainingError(
                f"the loss is {losses['loss']} at step {self.step}; lower the learning rate, or start from "
                "other weights"
            )
        self.step += 1
        self._shown += targets["classes"].sum(axis=0)
        return losses

    @contextmanager
    def averaged(self) -> Iterator[TrainingModel]:
        """The model as it is kept, while the block lasts.

        It has the exponential moving average (EMA) of the weights, and the config's balance of classes.
        """
        if not self.step:
            yield self.model
            return
        variables = self.model.trainable_variables
        kept = _values(variables)
        if self.model.optimizer.use_ema:
            self.model.optimizer.finalize_variable_values(variables)
        self._balance_classes()
        try:
            yield self.model
        finally:
            for variable, value in zip(variables, kept, strict=True):
                variable.assign(value)

    def _balance_classes(self) -> None:
        """Take from the scores what the classes owe to their frequency alone, as far as the config says."""
        # One more of each: a class that was never shown has not an infinite score.
        frequencies = (self._shown + 1) / (self._shown + 1).sum()
        head: Any = self.model.cait.head
        head.bias.assign(ops.convert_to_numpy(head.bias) - self._config.class_balance * np.log(frequencies))

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights as they are kept, by timm's names, float32."""
        with self.averaged() as model:
            return state_dict(model.cait)

    def save(self, path: Path) -> None:
        """Write all that the rest of the training depends on.

        An earlier state is not replaced if that cannot be written (OutputError), or some weights are not
        finite (TrainingError).
        """
        facts = {"step": self.step, "stage": self._stage, "seconds": self.seconds, "identity": self._identity}
        arrays = [self._shown, *_values(self._variables())]
        require_finite(arrays, "float32")
        save_state(path, facts, arrays)

    def restore(self, state: SavedState) -> None:
        """Go on where `save` was called; a TrainingError if the state is damaged or of another training."""
        state.require(self._identity)
        self._build(state.facts["stage"])
        self._shown, *values = state.arrays()
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)
        self.step, self.seconds = state.facts["step"], state.facts["seconds"]

    def _variables(self) -> list[Any]:
        """The weights, the states of the random generators, and the optimizer's variables."""
        return [*self.model.variables, *self.model.optimizer.variables]

    def _enter(self, stage: int) -> None:
        """Go on at a stage's resolution with the weights and the optimizer's state so far."""
        if stage == self._stage:
            return
        before = _values(self._variables())
        self._build(stage)
        for variable, value in zip(self._variables(), before, strict=True):
            if value.shape != tuple(variable.shape):  # the position embedding, its moments and its average
                resized = resample_positions(value, self.architecture.grid_shape)
                # The second moment is a mean of squares; bicubic overshoot must not make it negative.
                value = np.maximum(resized, 0) if (value >= 0).all() else resized
            variable.assign(value)

    def _build(self, stage: int) -> None:
        """A model at a stage's resolution, with a fresh optimizer."""
        self._stage = stage
        config, steps = self._config, self.steps
        policy = "mixed_bfloat16" if config.precision == "bfloat16" else "float32"
        cait = CaiT(replace(self._architecture, image_size=config.sizes[stage]), dtype=policy)
        scale = self.loader.feature_scale
        self.model = TrainingModel(cait, None if scale is None else scale.shape[1])
        weights = self.model.trainable_variables
        warmup = round(config.warmup * steps)
        rate = keras.optimizers.schedules.CosineDecay(
            config.learning_rate / max(1, warmup),
            max(1, steps - warmup),
            alpha=_LAST_RATE,
            warmup_target=config.learning_rate,
            warmup_steps=warmup,
        )
        window = config.ema * steps
        options: dict[str, Any] = {
            "learning_rate": rate,
            "weight_decay": config.weight_decay,
            "global_clipnorm": config.clip_norm,
            "use_ema": window > 1,
            "ema_momentum": 1 - 1 / max(1.0, window),
        }
        if config.optimizer == "muon":
            optimizer = keras.optimizers.Muon(
                **options, adam_weight_decay=config.weight_decay, exclude_layers=_NOT_FOR_MUON
            )
        else:
            optimizer = keras.optimizers.AdamW(**options)
        optimizer.exclude_from_weight_decay([one for one in weights if len(one.shape) not in _KERNEL_AXES])
        optimizer.build(weights)
        self.model.compile_losses(optimizer, config.feature_weight)


def require_finite(arrays: Iterable[np.ndarray], dtype: str) -> None:
    """Refuse weights that are infinite or NaN as `dtype`, with a `TrainingError`."""
    if not all_finite(*arrays):
        raise TrainingError(
            f"some weights are not finite as {dtype}; lower the learning rate, or start from other weights"
        )


def _values(variables: Iterable[Any]) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(variable.value)) for variable in variables]


def device() -> str:
    """What the backend computes on, such as "cpu:0" or "cuda: NVIDIA T4"."""
    if keras.backend.backend() == "torch":  # for which Keras has no list of devices
        import torch

        if torch.cuda.is_available():
            return f"cuda: {torch.cuda.get_device_name()}"
        return "mps" if torch.backends.mps.is_available() else "cpu:0"
    return str(keras.distribution.list_devices()[0])
