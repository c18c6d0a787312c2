"""The layers of CaiT (Touvron et al. 2021, arXiv:2103.17239), for any Keras 3 backend.

Shapes: B images, N patches, C embedding dimensions, H heads, D = C / H dimensions a head.
Every sublayer is named after what it is, so that a checkpoint never depends on the order in which layers
were made.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from inspect import signature
from typing import Any

from cait_viz._keras import keras, ops
from cait_viz.model.initial import dense, weight_initializer

_registered = keras.saving.register_keras_serializable(package="cait_viz")


class _Layer(keras.layers.Layer):
    """A layer that keeps each argument of its constructors under the argument's name."""

    def get_config(self) -> dict[str, Any]:
        """The constructors' arguments."""
        constructors = [kind.__init__ for kind in type(self).__mro__ if issubclass(kind, _Layer)]
        names = {name: None for constructor in constructors for name in signature(constructor).parameters}
        own = {name: getattr(self, name) for name in names if name not in ("self", "args", "kwargs")}
        return super().get_config() | own


@_registered
class LayerScale(_Layer):
    """Multiply each channel of a residual branch by a learned factor (equation 4), (…, C) -> (…, C).

    Args:
        init_values: initial value of every factor, the paper's epsilon.
    """

    def __init__(self, init_values: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.init_values = init_values

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Make `gamma`, (C,)."""
        self.gamma = self.add_weight(
            name="gamma", shape=(input_shape[-1],), initializer=keras.initializers.Constant(self.init_values)
        )

    def call(self, x: Any) -> Any:
        """Scale the channels of `x`."""
        return x * self.gamma


@_registered
class StochasticDepth(_Layer):
    """Drop the residual branch of random samples while training (Huang et al. 2016, arXiv:1603.09382).

    (B, …) -> (B, …): each sample's branch is zero with probability `sd_prob`, else divided by
    1 - `sd_prob`, which keeps its expectation. Each layer draws its own samples.

    Args:
        sd_prob: probability that a sample's branch is dropped, in [0, 1).
        seed: for the same draws again.
    """

    def __init__(self, sd_prob: float = 0.0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sd_prob = sd_prob
        self.seed = seed
        # The seed generator is a variable; a layer that never draws needs none.
        self.seed_generator = keras.random.SeedGenerator(seed) if sd_prob else None
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Drop whole samples of `x` when `training`."""
        if not training or self.seed_generator is None:
            return x
        keep = 1 - self.sd_prob
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        draw = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        return x * ops.cast(draw < keep, x.dtype) / keep


@_registered
class FeedForward(_Layer):
    """Two dense layers with the exact GELU between them (section 2.1, "FFN").

    (…, C) -> (…, C). The tanh approximation of the GELU, Keras' default in `ops.gelu`, moves the
    logits of a trained CaiT by 2e-4.

    Args:
        hidden_dim: width of the hidden layer.
        dropout_rate: rate of the dropout behind each dense layer.
    """

    def __init__(self, hidden_dim: int, dropout_rate: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.dropout_rate = dropout_rate

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Make `fc1`, (C, hidden), and `fc2`, (hidden, C)."""
        dim = input_shape[-1]
        self.fc1 = dense(self.hidden_dim, "fc1", self.dtype_policy)
        self.fc2 = dense(dim, "fc2", self.dtype_policy)
        self.drop = keras.layers.Dropout(self.dropout_rate, name="drop", dtype=self.dtype_policy)
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.hidden_dim))

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Apply the network to each token."""
        # On (tokens, C) TensorFlow fuses product, bias and GELU into one kernel; on (B, N, C) it does not.
        flat = ops.reshape(x, (-1, x.shape[-1]))
        flat = self.drop(ops.gelu(self.fc1(flat), approximate=False), training=training)
        flat = self.drop(self.fc2(flat), training=training)
        return ops.reshape(flat, (-1, *ops.shape(x)[1:]))


class _Attention(_Layer):
    """Attention of `num_heads` heads, which divide C."""

    def __init__(self, num_heads: int, dropout_rate: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate


@_registered
class TalkingHeadAttention(_Attention):
    """Self-attention whose heads talk before and after the softmax (Shazeer et al. 2020, arXiv:2003.02436).

    (B, N, C) -> (B, N, C) and attention (B, H, N, N): row i says where patch i looks. As in the tutorial it
    is the one after `proj_w`, the mixing behind the softmax, and no distribution; half may be negative.

    Its dropouts are on the attention and on the output.
    """

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Make `qkv`, (C, 3C), `proj_l` and `proj_w`, (H, H), and `proj`, (C, C)."""
        dim, policy = input_shape[-1], self.dtype_policy
        self.qkv = dense(3 * dim, "qkv", policy)
        self.proj_l = HeadMixing(self.num_heads, name="proj_l", dtype=policy)
        self.proj_w = HeadMixing(self.num_heads, name="proj_w", dtype=policy)
        self.proj = dense(dim, "proj", policy)
        self.attn_drop = keras.layers.Dropout(self.dropout_rate, name="attn_drop", dtype=policy)
        self.proj_drop = keras.layers.Dropout(self.dropout_rate, name="proj_drop", dtype=policy)
        self.qkv.build(input_shape)
        self.proj_l.build((input_shape[0], self.num_heads, None, None))
        self.proj_w.build((input_shape[0], self.num_heads, None, None))
        self.proj.build(input_shape)

    def distribution(self, x: Any) -> Any:
        """The attention after the softmax and before `proj_w`, (B, H, N, N): every row sums to one."""
        return self._distribution_and_value(x)[0]

    def _distribution_and_value(self, x: Any) -> tuple[Any, Any]:
        query, key, value = _split_heads(self.qkv(x), 3, self.num_heads)
        return _changed(ops.softmax(self.proj_l(_scores(query, key)), axis=-1)), value

    def call(self, x: Any, training: bool | None = None) -> tuple[Any, Any]:
        """Attend from each patch to all patches; returns the output and the attention."""
        softmax, value = self._distribution_and_value(x)
        attention = self.attn_drop(self.proj_w(softmax), training=training)
        x = self.proj(_merge_heads(ops.matmul(attention, value)))
        return self.proj_drop(x, training=training), attention


@_registered
class HeadMixing(_Layer):
    """The linear map across heads of talking-heads attention, (B, H, N, N) -> (B, H, N, N).

    out[g] = sum over h of kernel[h, g] in[h], plus bias[g]; one matrix product, with no (N, N, H) array.

    Args:
        num_heads: number of heads, H.
    """

    def __init__(self, num_heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Make `kernel`, (H, H), and `bias`, (H,)."""
        shape = (self.num_heads, self.num_heads)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=weight_initializer())
        self.bias = self.add_weight(name="bias", shape=shape[:1], initializer="zeros")

    def call(self, x: Any) -> Any:
        """Mix the heads of `x`."""
        _, heads, rows, columns = ops.shape(x)  # -1 for the batch: an export would make its size a constant
        flat = ops.reshape(x, (-1, heads, rows * columns))
        mixed = ops.matmul(ops.transpose(self.kernel), flat)
        # As long as a row: OpenVINO adds a bias of one number a head several times more slowly.
        bias = ops.broadcast_to(self.bias[:, None, None], (heads, 1, columns))
        return ops.reshape(mixed, (-1, heads, rows, columns)) + bias


@_registered
class ClassAttention(_Attention):
    """Attention from the class token alone to itself and the patches (section 3.2, equations 5 to 7).

    (B, 1 + N, C) -> (B, 1, C) and attention (B, H, 1, 1 + N), a distribution over the class token
    (index 0) and the patches. No target class enters it.

    Its dropouts are on the attention and on the output; the paper's CaiT has none.
    """

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Make `q`, `k`, `v` and `proj`, each (C, C)."""
        self.drop = keras.layers.Dropout(self.dropout_rate, name="drop", dtype=self.dtype_policy)
        for name in ("q", "k", "v", "proj"):
            projection = dense(input_shape[-1], name, self.dtype_policy)
            projection.build(input_shape)
            setattr(self, name, projection)

    def call(self, u: Any, head_mask: Any = None, training: bool | None = None) -> tuple[Any, Any]:
        """Attend from `u[:, 0]`, the class token, to all of `u`; returns the output and the attention.

        Each head's output is multiplied by its number in `head_mask`, (B, H); 0 silences it.
        """
        projected = (self.q(u[:, :1]), self.k(u), self.v(u))
        query, key, value = (_split_heads(x, 1, self.num_heads)[0] for x in projected)
        attention = self.drop(_changed(ops.softmax(_scores(query, key), axis=-1)), training=training)
        x = ops.matmul(attention, value)
        if head_mask is not None:
            x = x * ops.cast(head_mask[:, :, None, None], x.dtype)
        return self.drop(self.proj(_merge_heads(x)), training=training), attention


@_registered
class LayerNorm(keras.layers.LayerNormalization):
    """Keras' layer norm over the channels, which OpenVINO runs as one operation (its MVN)."""

    def call(self, x: Any) -> Any:
        """Normalize each token."""
        if keras.backend.backend() != "openvino":
            return super().call(x)
        # Keras takes the variance as E[x²] - E[x]², which OpenVINO leaves as seven operations.
        centered = x - ops.mean(x, axis=[-1], keepdims=True)
        variance = ops.mean(ops.square(centered), axis=[-1], keepdims=True)
        return centered / ops.sqrt(variance + self.epsilon) * self.gamma + self.beta


class _Block(_Layer):
    """What both kinds of block have: two norms, two LayerScales and the feed-forward network."""

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        layer_norm_eps: float = 1e-6,
        init_values: float | None = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.layer_norm_eps = layer_norm_eps
        self.init_values = init_values

    def _build_shared(self, shape: tuple[Any, ...], dropout_rate: float) -> None:
        policy, epsilon = self.dtype_policy, self.layer_norm_eps
        self.norm1 = LayerNorm(epsilon=epsilon, name="norm1", dtype=policy)
        self.norm2 = LayerNorm(epsilon=epsilon, name="norm2", dtype=policy)
        scale = partial(LayerScale, self.init_values) if self.init_values else keras.layers.Identity
        self.layer_scale1 = scale(name="layer_scale1", dtype=policy)
        self.layer_scale2 = scale(name="layer_scale2", dtype=policy)
        self.mlp = FeedForward(self.mlp_dim, dropout_rate, name="mlp", dtype=policy)
        for layer in (self.norm1, self.norm2, self.layer_scale1, self.layer_scale2, self.mlp):
            layer.build(shape)


@_registered
class SelfAttentionBlock(_Block):
    """A block of the patch stage: talking heads, LayerScale, stochastic depth (section 2.2, equation 4).

    (B, N, C) -> (B, N, C) and attention (B, H, N, N). The tutorial's `LayerScaleBlock`.

    Args:
        num_heads: number of heads, H.
        mlp_dim: width of the feed-forward network's hidden layer.
        dropout_rate: rate of every dropout.
        sd_prob: probability that stochastic depth drops a branch.
        **kwargs: as of `ClassAttentionBlock`.
    """

    def __init__(
        self, num_heads: int, mlp_dim: int, dropout_rate: float = 0.0, sd_prob: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(num_heads, mlp_dim, **kwargs)
        self.dropout_rate = dropout_rate
        self.sd_prob = sd_prob

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Make the sublayers' weights."""
        policy = self.dtype_policy
        self._build_shared(input_shape, self.dropout_rate)
        self.attn = TalkingHeadAttention(self.num_heads, self.dropout_rate, name="attn", dtype=policy)
        self.attn.build(input_shape)
        self.drop_path1 = StochasticDepth(self.sd_prob, name="drop_path1", dtype=policy)
        self.drop_path2 = StochasticDepth(self.sd_prob, name="drop_path2", dtype=policy)

    def attention(self, x: Any) -> tuple[Any, Any]:
        """Where the patches `x`, (B, N, C), look in this block, after the softmax and after `proj_w`.

        Both (B, H, N, N); only the rows of the former are distributions.
        """
        softmax = self.attn.distribution(self.norm1(x))
        return softmax, self.attn.proj_w(softmax)

    def call(self, x: Any, training: bool | None = None) -> tuple[Any, Any]:
        """Transform the patches; returns them and the attention."""
        branch, attention = self.attn(self.norm1(x), training=training)
        x = x + self.drop_path1(self.layer_scale1(branch), training=training)
        branch = self.mlp(self.norm2(x), training=training)
        return x + self.drop_path2(self.layer_scale2(branch), training=training), attention


@_registered
class ClassAttentionBlock(_Block):
    """A block of the class stage: only the class token changes (section 3.2, figure 3 right).

    Patches (B, N, C) and class token (B, 1, C) -> class token (B, 1, C) and attention
    (B, H, 1, 1 + N). As in the authors' code this stage has no dropout and no stochastic depth. The
    tutorial's `LayerScaleBlockClassAttention`.

    Args:
        num_heads: number of heads, H.
        mlp_dim: width of the feed-forward network's hidden layer.
        layer_norm_eps: epsilon of both norms.
        init_values: initial value of LayerScale; None or 0 for none.
    """

    def build(self, patches_shape: tuple[Any, ...], *_: Any) -> None:
        """Make the sublayers' weights."""
        self._build_shared(patches_shape, dropout_rate=0.0)
        self.attn = ClassAttention(self.num_heads, name="attn", dtype=self.dtype_policy)
        self.attn.build(patches_shape)

    def call(self, patches: Any, class_token: Any, head_mask: Any = None) -> tuple[Any, Any]:
        """Update the class token from the patches; returns it and the attention.

        `head_mask` is as for `ClassAttention`.
        """
        u = ops.concatenate([class_token, patches], axis=1)
        branch, attention = self.attn(self.norm1(u), head_mask)
        class_token = class_token + self.layer_scale1(branch)
        class_token = class_token + self.layer_scale2(self.mlp(self.norm2(class_token)))
        return class_token, attention


_change: ContextVar[Callable[[Any], Any] | None] = ContextVar("change", default=None)


@contextmanager
def changed_attention(change: Callable[[Any], Any]) -> Iterator[None]:
    """Hand every attention, as it leaves its softmax, to a function, and go on with what that returns.

    In the order of the blocks. What only looks at them has the tensors to which gradients lead.
    """
    token = _change.set(change)
    try:
        yield
    finally:
        _change.reset(token)


def _changed(attention: Any) -> Any:
    change = _change.get()
    return attention if change is None else change(attention)


def _scores(query: Any, key: Any) -> Any:
    """(B, H, M, D) and (B, H, N, D) -> (B, H, M, N), equation 6."""
    return ops.matmul(query * query.shape[-1] ** -0.5, ops.swapaxes(key, -1, -2))


def _split_heads(x: Any, parts: int, num_heads: int) -> list[Any]:
    """(B, N, parts·C) -> `parts` arrays of (B, H, N, D)."""
    _, tokens, width = ops.shape(x)
    x = ops.reshape(x, (-1, tokens, parts, num_heads, width // (parts * num_heads)))
    return ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), parts, axis=0)


def _merge_heads(x: Any) -> Any:
    """(B, H, N, D) -> (B, N, H·D)."""
    _, heads, tokens, dim = ops.shape(x)
    return ops.reshape(ops.swapaxes(x, 1, 2), (-1, tokens, heads * dim))
