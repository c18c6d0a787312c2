"""The registry of named models: plain data, no Keras, no files, no network."""

from dataclasses import dataclass, replace

from cait_viz.errors import UnknownModelError
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import timm_tensors


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One named model: its architecture and what is known of its published weights.

    Attributes:
        name: the model's name, as typed after `--model`.
        config: the architecture.
        parameters: number of weights, all of them trainable.
        accuracy: what is known of its accuracy, in a few words for a person.
        top1: ImageNet-1k top-1 accuracy in percent as timm measured it; None where it is not known.
        saliency_block: index of the class-attention block that serves best as saliency.
        repo_id: repository on the hub that holds the weights; None for bundled weights.
    """

    name: str
    config: CaiTConfig
    parameters: int
    accuracy: str
    top1: float | None = None
    saliency_block: int = 0
    repo_id: str | None = None

    @property
    def download_megabytes(self) -> int:
        """What its weights take to download: the published ones are float32."""
        return round(4 * self.parameters / 1e6) if self.repo_id else 0


def _published(
    name: str, depth: int, dim: int, heads: int, init_values: float, parameters: int, top1: float
) -> Variant:
    return Variant(
        name=name,
        config=CaiTConfig(
            image_size=int(name.rpartition("_")[2]),
            projection_dim=dim,
            sa_ffn_layers=depth,
            num_heads=heads,
            init_values=init_values,
        ),
        parameters=parameters,
        accuracy=f"{top1:.1f} % top-1 on ImageNet-1k, as timm measured it",
        top1=top1,
        repo_id=f"timm/{name}.fb_dist_in1k",
    )


BUNDLED = Variant(
    name="bundled",
    config=CaiTConfig(sa_ffn_layers=12),
    parameters=6_612_808,
    accuracy="19 % top-1 on 227 everyday photographs, among 1000 classes",
    # Its second class-attention block lies on the object, its first on the context: the other
    # way round from the published models. Measured; see the model card beside the weights.
    saliency_block=1,
)

# Paper, Table 1 and Table 3; parameter counts and top-1 of timm's checkpoints. LayerScale starts
# at 1e-5, from 36 blocks of the wide models on at 1e-6 (paper, section 2.2, and timm's cait.py).
VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        BUNDLED,
        _published("cait_xxs24_224", 24, 192, 4, 1e-5, 11_956_264, 78.4),
        _published("cait_xxs24_384", 24, 192, 4, 1e-5, 12_029_224, 81.0),
        _published("cait_xxs36_224", 36, 192, 4, 1e-5, 17_299_720, 79.8),
        _published("cait_xxs36_384", 36, 192, 4, 1e-5, 17_372_680, 82.2),
        _published("cait_xs24_384", 24, 288, 6, 1e-5, 26_670_088, 84.1),
        _published("cait_s24_224", 24, 384, 8, 1e-5, 46_916_200, 83.5),
        _published("cait_s24_384", 24, 384, 8, 1e-5, 47_062_120, 85.0),
        _published("cait_s36_384", 36, 384, 8, 1e-6, 68_366_632, 85.5),
        _published("cait_m36_384", 36, 768, 16, 1e-6, 271_221_352, 86.1),
        _published("cait_m48_448", 48, 768, 16, 1e-6, 356_460_520, 86.5),
    )
}


def get_variant(name: str) -> Variant:
    """The variant of that name; if there is none, an UnknownModelError that lists those that are."""
    if name not in VARIANTS:
        raise UnknownModelError(f"there is no model named {name!r}; the models are {', '.join(VARIANTS)}")
    return VARIANTS[name]


def match_variant(config: CaiTConfig) -> Variant | None:
    """The published variant of that architecture, whatever the head; None if there is none."""
    published = (variant for variant in VARIANTS.values() if variant is not BUNDLED)
    return next((variant for variant in published if same_architecture(variant.config, config)), None)


def same_architecture(one: CaiTConfig, other: CaiTConfig) -> bool:
    """Whether all weights but the head's have the same names and shapes."""
    one, other = (replace(config, pre_logits=True) for config in (one, other))
    return timm_tensors(one) == timm_tensors(other)
