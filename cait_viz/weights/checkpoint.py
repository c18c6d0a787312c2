"""The checkpoint that was chosen: which weights, of which architecture."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from cait_viz._files import sha256
from cait_viz.model.config import CaiTConfig, WeightsSource
from cait_viz.weights.registry import BUNDLED, Variant, same_architecture
from cait_viz.weights.tensors import TensorFile


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights that were found to fit an architecture; only their header has been read.

    Attributes:
        name: what to call it: the variant's name, or the stem of a file of another architecture.
        config: the architecture, with as many classes as the file's head has.
        variant: the named variant of that architecture, if there is one.
        as_published: whether these are the variant's own weights, so that what is known of its
            accuracy holds for them; False for every file a person gave.
        file: the file, with timm's names.
    """

    name: str
    config: CaiTConfig
    variant: Variant | None
    as_published: bool
    file: TensorFile = field(repr=False, compare=False)

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.file.path

    @property
    def remark(self) -> str:
        """A sentence for the person on how the file was understood; mostly empty."""
        return self.file.remark

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal, as it was when first asked for."""
        return sha256(self.path)

    @property
    def saliency_block(self) -> int:
        """Index of the class-attention block that serves best as saliency, as far as it is known."""
        if self.variant is not None:
            return self.variant.saliency_block
        # A network of the bundled one's architecture, which no published model has, was most likely trained
        # from it, perhaps at another resolution.
        at_its_size = replace(self.config, image_size=BUNDLED.config.image_size)
        return BUNDLED.saliency_block if same_architecture(at_its_size, BUNDLED.config) else 0

    @property
    def source(self) -> WeightsSource:
        """What a network with these weights says of them."""
        return WeightsSource(
            name=self.name,
            file=self.path.name,
            sha256=self.sha256,
            saliency_block=self.saliency_block,
        )
