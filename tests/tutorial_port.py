"""The network of the Keras tutorial in its own way, as its author's published port holds it."""

DIM, HEADS, HIDDEN, PATCHES, CLASSES = 48, 4, 96, 16, 10


def tutorials_cait(keras, *, layer_scale=True, head=True):  # noqa: C901  (a notebook's cells in one function)
    """The network of the Keras tutorial in its own way: positional names, in the order of its code.

    It is written for Keras 2, which the published port was saved with, and Keras 3 alike.
    """
    import tensorflow as tf

    layers = keras.layers

    def split(x, parts=1):
        shape = tf.shape(x)
        x = tf.reshape(x, (shape[0], shape[1], parts, HEADS, DIM // HEADS))
        return tf.unstack(tf.transpose(x, (2, 0, 3, 1, 4)), parts)

    def merge(x):
        x = tf.transpose(x, (0, 2, 1, 3))
        return tf.reshape(x, (tf.shape(x)[0], tf.shape(x)[1], DIM))

    def scores(query, key):
        return tf.matmul(query * (DIM // HEADS) ** -0.5, key, transpose_b=True)

    class LayerScale(layers.Layer):
        def __init__(self):
            super().__init__()
            self.gamma = self.add_weight(name="Variable", shape=(DIM,), initializer="ones")

        def call(self, x):
            return x * self.gamma

    class ClassAttention(layers.Layer):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (layers.Dense(DIM) for _ in "qkv")
            self.proj = layers.Dense(DIM)

        def call(self, x):
            (query,), (key,), (value,) = split(self.q(x[:, :1])), split(self.k(x)), split(self.v(x))
            attention = tf.nn.softmax(scores(query, key))
            return self.proj(merge(tf.matmul(attention, value))), attention

    class TalkingHeadAttention(layers.Layer):
        def __init__(self):
            super().__init__()
            self.qkv = layers.Dense(3 * DIM)
            self.proj = layers.Dense(DIM)
            self.proj_l = layers.Dense(HEADS)
            self.proj_w = layers.Dense(HEADS)

        def call(self, x):
            query, key, value = split(self.qkv(x), 3)
            mixed = self.proj_l(tf.transpose(scores(query, key), (0, 2, 3, 1)))
            attention = tf.nn.softmax(tf.transpose(mixed, (0, 3, 1, 2)))
            attention = tf.transpose(self.proj_w(tf.transpose(attention, (0, 2, 3, 1))), (0, 3, 1, 2))
            return self.proj(merge(tf.matmul(attention, value))), attention

    def scaled(x):
        return LayerScale()(x) if layer_scale else x

    def feed_forward(x):
        branch = layers.LayerNormalization(epsilon=1e-6)(x)
        branch = layers.Dense(HIDDEN, activation=tf.nn.gelu)(branch)
        return layers.Add()([x, scaled(layers.Dense(DIM)(branch))])

    def self_attention_block(name):
        x = keras.Input((None, DIM))
        branch, attention = TalkingHeadAttention()(layers.LayerNormalization(epsilon=1e-6)(x))
        return keras.Model(x, [feed_forward(layers.Add()([x, scaled(branch)])), attention], name=name)

    def class_attention_block(name):
        x, token = keras.Input((None, DIM)), keras.Input((None, DIM))
        both = layers.Concatenate(axis=1)([token, x])
        branch, attention = ClassAttention()(layers.LayerNormalization(epsilon=1e-6)(both))
        output = feed_forward(layers.Add()([token, scaled(branch)]))
        return keras.Model([x, token], [output, attention], name=name)

    class CaiT(keras.Model):
        def __init__(self):
            super().__init__()
            self.projection = keras.Sequential(
                [layers.Conv2D(DIM, 16, strides=16, name="conv_projection"), layers.Reshape((-1, DIM))]
            )
            self.cls_token = self.add_weight(name="Variable", shape=(1, 1, DIM), initializer="zeros")
            self.pos_embed = self.add_weight(name="Variable", shape=(1, PATCHES, DIM), initializer="zeros")
            self.blocks = [self_attention_block(f"sa_ffn_block_{block}") for block in range(3)]
            self.blocks_token_only = [class_attention_block(f"ca_ffn_block_{block}") for block in range(2)]
            self.norm = layers.LayerNormalization(epsilon=1e-6, name="head_norm")
            if head:
                self.head = layers.Dense(CLASSES, name="classification_head")

        def call(self, images):
            x = self.projection(images) + self.pos_embed
            token = tf.tile(self.cls_token, (tf.shape(x)[0], 1, 1))
            sa_attention, ca_attention = {}, {}
            for block in self.blocks:
                x, sa_attention[f"{block.name}_att"] = block(x)
            for block in self.blocks_token_only:
                token, ca_attention[f"{block.name}_att"] = block([x, token])
            x = self.norm(tf.concat([token, x], axis=1))[:, 0]
            return (self.head(x) if head else x), sa_attention, ca_attention

    return CaiT()


def export_weights(model, folder):
    """Export with Keras 3, whose `model.export` takes no network that gives dictionaries within a tuple."""
    import keras

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default",
        lambda images: model(images)[0],
        [keras.InputSpec(shape=(None, 64, 64, 3), dtype="float32")],
    )
    archive.write_out(str(folder), verbose=False)
