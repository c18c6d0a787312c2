"""A CaiT that learns, from labels or from a teacher; Keras 3 code for any of its backends.

What it is shown comes from `batches`; here are the loss, the optimizer, the steps, the way from one
resolution to the next, and a state that can be saved and taken up again.
"""

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from cait_viz._files import replacing
from cait_viz._text import one_line, path_text
from cait_viz.errors import TrainingError
from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import assign, resample_positions, state_dict
from cait_viz.training.config import TrainingConfig, schedule
from cait_viz.training.loader import Batches, Targets

Tensors = dict[str, np.ndarray]

# Batches made while an accelerator is busy with the one before.
_AHEAD = 3
# Share of its highest value that the learning rate falls to.
_LAST_RATE = 0.01
# Axes of dense and convolution kernels, which alone decay: biases, norms and LayerScale have one, the class
# token and the position embedding three.
_KERNEL_AXES = (2, 4)


class TrainingModel(keras.Model):
    """A CaiT and what it is judged by.

    A call returns {"logits": (B, classes)} and, with a teacher, "features" (B, N, channels): the teacher's
    last feature map as a linear head tells it from the patches. That head is thrown away afterwards.

    Args:
        cait: the network that learns.
        channels: of the teacher's features; None without a teacher.
        feature_weight: weight of the features in the loss.
    """

    def __init__(self, cait: CaiT, channels: int | None = None, feature_weight: float = 0.0) -> None:
        super().__init__(name="learner")
        self.cait = cait
        self.feature_weight = feature_weight
        self.match = None if channels is None else keras.layers.Dense(channels, name="match")
        if self.match is not None:
            self.match.build((None, None, cait.config.projection_dim))
        self.class_loss = keras.metrics.Mean(name="class_loss")
        self.feature_loss = None if self.match is None else keras.metrics.Mean(name="feature_loss")
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> dict[str, Any]:
        """What the network says of `images`, in float32."""
        patches = self.cait.encode(images, training=training)
        logits, _ = self.cait.classify(patches)
        outputs = {"logits": ops.cast(logits, "float32")}
        if self.match is not None:
            outputs["features"] = self.match(ops.cast(patches, "float32"))
        return outputs

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Cross-entropy to the targets, and the squared error of the features.

        The cross-entropy to a teacher's distribution is the Kullback-Leibler divergence from it and the
        teacher's own entropy, which no weight changes (Beyer et al. 2022, section 3).
        """
        loss = ops.mean(
            keras.losses.categorical_crossentropy(y["classes"], y_pred["logits"], from_logits=True)
        )
        self.class_loss.update_state(loss)
        if self.match is None:
            return loss
        side = self.cait.config.grid_size
        wanted = ops.image.resize(y["features"], (side, side), data_format="channels_last")
        wanted = ops.reshape(wanted, (-1, side * side, wanted.shape[-1]))
        error = ops.mean(ops.square(wanted - y_pred["features"]))
        assert self.feature_loss is not None
        self.feature_loss.update_state(error)
        return loss + self.feature_weight * error


class Training:
    """A training in the making.

    Args:
        config: the architecture; its `image_size` is what `weights` belong to.
        weights: timm name -> array, to start from; None starts from random weights.
        batches: what there is to learn.
        recipe: how.
        identity: what a saved state has to agree with to be taken up again.

    Attributes:
        step: how many steps are done.
        seconds: how long they took; whoever runs the steps counts, the state keeps it.
        schedule: which step belongs to which stage.
    """

    def __init__(
        self,
        config: CaiTConfig,
        weights: Mapping[str, np.ndarray] | None,
        batches: Batches,
        recipe: TrainingConfig,
        identity: Mapping[str, Any],
    ) -> None:
        keras.utils.set_random_seed(recipe.seed)
        self.recipe = recipe
        self.schedule = schedule(recipe.stages, batches.steps_per_epoch)
        self.step = 0
        self.seconds = 0.0
        self._batches = batches
        self._identity = json.loads(json.dumps(identity))
        self._config = replace(config, sd_prob=recipe.sd_prob)
        self._stage = 0
        self._build(self._stage_config(0))
        if weights is not None:
            grid = self._stage_config(0).grid_size
            assign(self.model, {**weights, "pos_embed": resample_positions(weights["pos_embed"], grid)})

    @property
    def model(self) -> CaiT:
        """The network, with the weights of the last step."""
        return self._learner.cait

    @property
    def learner(self) -> TrainingModel:
        """The network and what it is judged by, for Keras' callbacks."""
        return self._learner

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(ops.convert_to_numpy(self._learner.optimizer.learning_rate))

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.schedule.steps

    def run(self, stop: int | None = None) -> Iterator[dict[str, float]]:
        """Do the steps up to `stop`, all by default; after each, its losses.

        Between two of them the state may be saved and the weights be looked at.

        Raises:
            TrainingError: the loss is no longer a finite number.
        """
        last = self.schedule.steps if stop is None else min(stop, self.schedule.steps)
        while self.step < last:
            self._enter(self.schedule.stage(self.step))
            end = min(last, self.schedule.ends[self._stage])
            ahead = 0 if device().startswith("cpu") else _AHEAD
            stream = self._batches.stream(self.step, end, self.model.config.image_size, ahead)
            try:
                for images, targets in stream:
                    yield self._learn(images, targets)
            finally:
                stream.close()

    def _learn(self, images: np.ndarray, targets: Targets) -> dict[str, float]:
        try:
            logs = self._learner.train_on_batch(images, targets, return_dict=True)
        except Exception as error:  # each backend has a class of its own for this
            if not _out_of_memory(error):
                raise
            raise TrainingError(
                f"the memory is not enough for {len(images)} pictures of {images.shape[1]} pixels at a time; "
                "choose a smaller --batch-size, or bfloat16"
            ) from None
        losses = {name: float(value) for name, value in logs.items()}
        if not np.isfinite(losses["loss"]):
            raise TrainingError(
                f"the loss is {losses['loss']} at step {self.step}; lower the learning rate, or start from "
                "other weights"
            )
        self.step += 1
        return losses

    @contextmanager
    def averaged(self) -> Iterator[CaiT]:
        """The network with the averaged weights, as long as the block lasts."""
        variables = self._learner.trainable_variables
        if not self._learner.optimizer.use_ema or not self.step:
            yield self.model
            return
        kept = [ops.convert_to_numpy(variable.value) for variable in variables]
        self._learner.optimizer.finalize_variable_values(variables)
        try:
            yield self.model
        finally:
            for variable, value in zip(variables, kept, strict=True):
                variable.assign(value)

    def tensors(self) -> Tensors:
        """The averaged weights by timm's names, float32."""
        with self.averaged() as model:
            return state_dict(model)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """What the network says of prepared pictures, (B, S, S, 3) -> (B, classes) float32."""
        return np.asarray(self._learner.predict_on_batch(images)["logits"])

    def save(self, path: Path) -> None:
        """Write all that the rest of the training depends on; what lay there is replaced when all is written.

        Raises:
            OutputError: it cannot be written.
            TrainingError: there are weights that are no finite numbers; nothing is replaced.
        """
        state = {"step": self.step, "stage": self._stage, "seconds": self.seconds, "identity": self._identity}
        arrays = {f"{index:04}": _value(variable) for index, variable in enumerate(self._variables())}
        require_finite(arrays.values(), "float32")
        with replacing(path) as file:
            np.savez(file, state=np.array(json.dumps(state)), **arrays)  # type: ignore[arg-type]

    def restore(self, path: Path) -> None:
        """Go on where `save` was called.

        Raises:
            TrainingError: there is no such state, or it is of another training; the message says how.
        """
        check_state(path, self._identity)
        state, arrays = _read_state(path)
        self._stage = state["stage"]
        self._build(self._stage_config(self._stage))
        for variable, array in zip(self._variables(), arrays, strict=True):
            variable.assign(array)
        self.step, self.seconds = state["step"], state["seconds"]

    def _variables(self) -> list[Any]:
        """The weights, the states of what is drawn at random, and the optimizer's."""
        return [*self._learner.variables, *self._learner.optimizer.variables]

    def _stage_config(self, stage: int) -> CaiTConfig:
        return replace(self._config, image_size=self.recipe.sizes[stage])

    def _enter(self, stage: int) -> None:
        """Go on at a stage's resolution, with the weights and the optimizer's state of the one before."""
        if stage == self._stage:
            return
        before = [_value(variable) for variable in self._variables()]
        self._stage = stage
        self._build(self._stage_config(stage))
        grid = self.model.config.grid_size
        for variable, value in zip(self._variables(), before, strict=True):
            if value.shape != tuple(variable.shape):  # the position embedding, its moments and its average
                resized = resample_positions(value, grid)
                # The second moment is a mean of squares; bicubic overshoot must not make it negative.
                value = np.maximum(resized, 0) if (value >= 0).all() else resized
            variable.assign(value)

    def _build(self, config: CaiTConfig) -> None:
        """A network of that architecture with a fresh optimizer."""
        recipe, steps = self.recipe, self.schedule.steps
        policy = "mixed_bfloat16" if recipe.precision == "bfloat16" else "float32"
        scale = self._batches.feature_scale
        channels = None if scale is None else scale.shape[1]
        learner = TrainingModel(CaiT(config, dtype=policy), channels, recipe.feature_weight)
        warmup = round(recipe.warmup * steps)
        rate = keras.optimizers.schedules.CosineDecay(
            recipe.learning_rate / max(1, warmup),
            max(1, steps - warmup),
            alpha=_LAST_RATE,
            warmup_target=recipe.learning_rate,
            warmup_steps=warmup,
        )
        window = recipe.ema * steps
        optimizer = keras.optimizers.AdamW(
            rate,
            weight_decay=recipe.weight_decay,
            global_clipnorm=recipe.clip_norm,
            use_ema=window > 1,
            ema_momentum=1 - 1 / max(1.0, window),
        )
        weights = learner.trainable_variables
        optimizer.exclude_from_weight_decay(
            [variable for variable in weights if len(variable.shape) not in _KERNEL_AXES]
        )
        optimizer.build(weights)
        # XLA compiles for a minute on a CPU and is no faster there; JAX knows nothing else.
        learner.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
        self._learner = learner


def require_finite(arrays: Iterable[np.ndarray], kind: str) -> None:
    """Refuse weights with which nothing could be done.

    Args:
        arrays: the weights.
        kind: the type of number they are, for the message.

    Raises:
        TrainingError: there are infinite numbers among them, or what is no number.
    """
    if not all(np.isfinite(array).all() for array in arrays):
        raise TrainingError(
            f"there are weights that are no finite numbers as {kind}; lower the learning rate, or start from "
            "other weights"
        )


def _value(variable: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(variable.value))


def _out_of_memory(error: Exception) -> bool:
    words = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or any(
        sign in words for sign in ("out of memory", "outofmemory", "resource_exhausted", "resourceexhausted")
    )


def check_state(path: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a saved state that another training has left, before anything is done for this one.

    Args:
        path: the file that `Training.save` wrote.
        identity: what is known of this training; other keys of the state's are passed over.

    Raises:
        TrainingError: there is no such state, or it is of another training; the message says how.
    """
    before = _read_state(path)[0]["identity"]
    wanted = json.loads(json.dumps(identity))
    different = [key for key in wanted if wanted[key] != before.get(key)]
    if different:
        raise TrainingError(
            f"{path_text(path)}: was saved with other {', '.join(different)}; give the same, or "
            "start anew in another folder"
        )


def _read_state(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    name = path_text(path)
    try:
        with np.load(path) as archive:
            arrays = [archive[key] for key in sorted(set(archive.files) - {"state"})]
            return json.loads(str(archive["state"])), arrays
    except FileNotFoundError:
        raise TrainingError(f"{name}: nothing to take up again is there; start without --resume") from None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{name}: cannot be taken up again ({one_line(str(error))})") from None


def device() -> str:
    """What the backend computes on, such as "cpu:0" or "cuda: NVIDIA T4"."""
    if keras.backend.backend() == "torch":  # which has no list of devices in Keras
        import torch

        if torch.cuda.is_available():
            return f"cuda: {torch.cuda.get_device_name()}"
        return "mps" if torch.backends.mps.is_available() else "cpu:0"
    return str(keras.distribution.list_devices()[0])
