"""CaiT: patches, self-attention blocks, class-attention blocks, classifier."""

from typing import Any

from cait_viz._keras import keras, ops
from cait_viz.model.config import CaiTConfig, WeightsSource
from cait_viz.model.initial import dense, weight_initializer
from cait_viz.model.layers import ClassAttentionBlock, LayerNorm, SelfAttentionBlock


@keras.saving.register_keras_serializable(package="cait_viz")
class CaiT(keras.Model):
    """Class-Attention in Image Transformers (Touvron et al. 2021, arXiv:2103.17239, figure 3 right).

    A call takes images as `cait_viz.preprocess` makes them, (B, height, width, 3) float32, and returns

    - logits (B, classes), or the pooled features (B, C) where the configuration says `pre_logits`;
    - the self-attention, a dict "sa_ffn_block_{k}_att" -> (B, H, N, N);
    - the class attention, a dict "ca_ffn_block_{i}_att" -> (B, H, 1, 1 + N), index 0 being the
      class token itself.

    That is 1.9 GB for one image and cait_m48_448; an engine (`cait_viz.engine`) keeps what is asked for.

    Args:
        config: the architecture.
        dtype: Keras' dtype policy, such as "mixed_bfloat16". By default float32, whatever the user's Keras
            settings (`keras.config.floatx`) say.

    Attributes:
        source: where its weights came from, if it was filled.
        labels: name of each class, if they are known.
        engine: what runs it in compiled form, once something has.
    """

    def __init__(self, config: CaiTConfig | None = None, *, dtype: Any = "float32", **kwargs: Any) -> None:
        super().__init__(dtype=dtype, **kwargs)
        self.config = config = config or CaiTConfig()
        self.source: WeightsSource | None = None
        self.labels: tuple[str, ...] = ()
        self.engine: Any = None
        policy = self.dtype_policy
        shared = {
            "num_heads": config.num_heads,
            "mlp_dim": config.mlp_dim,
            "layer_norm_eps": config.layer_norm_eps,
            "init_values": config.init_values,
            "dtype": policy,
        }
        self.patch_embed = keras.layers.Conv2D(
            config.projection_dim,
            config.patch_size,
            strides=config.patch_size,
            kernel_initializer=weight_initializer(),
            data_format="channels_last",
            name="patch_embed",
            dtype=policy,
        )
        self.pos_drop = keras.layers.Dropout(config.dropout_rate, name="pos_drop", dtype=policy)
        self.blocks = [
            SelfAttentionBlock(
                dropout_rate=config.dropout_rate, sd_prob=config.sd_prob, name=f"sa_ffn_block_{k}", **shared
            )
            for k in range(config.sa_ffn_layers)
        ]
        self.blocks_token_only = [
            ClassAttentionBlock(name=f"ca_ffn_block_{i}", **shared) for i in range(config.ca_ffn_layers)
        ]
        self.norm = LayerNorm(epsilon=config.layer_norm_eps, name="norm", dtype=policy)
        self.head = None if config.pre_logits else dense(config.num_classes, "head", policy)
        self.build((None, *config.image_shape, 3))

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Make every weight, so that a model can be counted, loaded and saved before its first image."""
        if hasattr(self, "cls_token"):  # Keras asks again when it loads a file
            return
        config = self.config
        tokens = (None, config.num_patches, config.projection_dim)
        self.cls_token = self.add_weight(
            name="cls_token", shape=(1, 1, config.projection_dim), initializer=weight_initializer()
        )
        self.pos_embed = self.add_weight(
            name="pos_embed", shape=(1, *tokens[1:]), initializer=weight_initializer()
        )
        self.patch_embed.build(input_shape)
        for block in (*self.blocks, *self.blocks_token_only):
            block.build(tokens)
        self.norm.build(tokens)
        if self.head is not None:
            self.head.build((None, config.projection_dim))

    def call(self, images: Any, training: bool | None = None) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Classify `images` and return `(logits, sa_attention, ca_attention)`."""
        self.check(images)
        sa_attention: dict[str, Any] = {}
        logits, ca_attention = self.classify(self.encode(images, sa_attention, training=training))
        return logits, sa_attention, ca_attention

    def embed(self, images: Any, training: bool | None = None) -> Any:
        """The patches (B, N, C) before the first self-attention block, with their position embedding."""
        patches = self.patch_embed(images)
        patches = ops.reshape(patches, (-1, self.config.num_patches, self.config.projection_dim))
        return self.pos_drop(patches + ops.cast(self.pos_embed, patches.dtype), training=training)

    def encode(
        self,
        images: Any,
        sa_attention: dict[str, Any] | None = None,
        depths: list[Any] | None = None,
        training: bool | None = None,
    ) -> Any:
        """The patch stage: patches (B, N, C) after the last self-attention block.

        Args:
            images: as in a call.
            sa_attention: to put each block's attention into; without it none is kept.
            depths: to append the patches to as they are before the first block and after each block.
            training: whether patches and branches are dropped.
        """
        patches = self.embed(images, training=training)
        depths = [] if depths is None else depths
        depths.append(patches)
        for block in self.blocks:
            patches, attention = block(patches, training=training)
            depths.append(patches)
            if sa_attention is not None:
                sa_attention[f"{block.name}_att"] = attention
        return patches

    def classify(self, patches: Any, head_mask: Any = None) -> tuple[Any, dict[str, Any]]:
        """The class stage: logits (B, classes), or pooled features, and the class attention.

        Args:
            patches: (B, N, C).
            head_mask: what each class-attention head's output is multiplied by, (B, blocks, H), 0 to
                silence it.
        """
        class_token = ops.zeros_like(patches[:, :1]) + ops.cast(self.cls_token, patches.dtype)
        ca_attention: dict[str, Any] = {}
        for index, block in enumerate(self.blocks_token_only):
            heads = None if head_mask is None else head_mask[:, index]
            class_token, ca_attention[f"{block.name}_att"] = block(patches, class_token, heads)
        # LayerNorm treats each token by itself, so only those that are pooled need it.
        average = self.config.global_pool == "avg"
        features = ops.mean(self.norm(patches), axis=1) if average else self.norm(class_token)[:, 0]
        return (features if self.head is None else self.head(features)), ca_attention

    def check(self, images: Any) -> None:
        """Refuse `images` of another shape than (B, height, width, 3), with a ValueError that names both."""
        self.config.check_images(images.shape)

    def get_config(self) -> dict[str, Any]:
        """The architecture's options and Keras' own (name, dtype)."""
        return super().get_config() | {"config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "CaiT":
        """The model that `get_config` described, with fresh weights."""
        options = dict(config)
        return cls(CaiTConfig(**options.pop("config")), **options)
