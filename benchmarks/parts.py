"""Where the time of a forward pass goes, beside the least that its matrix products need.

    python benchmarks/parts.py [--precision bfloat16] [--rounds N] [VARIANT | GRAPH.xml …]   # default bundled

For each variant, with random weights, or graph that `cait-viz` exported: milliseconds by kind of operation,
as OpenVINO's profile of one image tells them (medians over the rounds), and what the products alone would
take at the rate of one large product, measured in the same process.
"""

import argparse
import statistics
import tempfile
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from cait_viz._backend import openvino_core
from cait_viz.engine import names
from cait_viz.engine.graphs import Graphs
from cait_viz.model.timm_names import timm_tensors
from cait_viz.weights.registry import BUNDLED, get_variant
from cait_viz.weights.resolve import resolve

# Side of the square matrices whose product is as fast as the machine computes.
LARGE = 1536
HINTS = {"float32": "f32", "bfloat16": "bf16"}


def main() -> None:
    """Print a table for each graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("graphs", nargs="*", default=[BUNDLED.name], metavar="VARIANT | GRAPH.xml")
    parser.add_argument("--precision", choices=HINTS, default="float32")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    rate = rate_of_products(arguments.precision, arguments.rounds)
    print(f"one product of {LARGE} x {LARGE} matrices: {rate / 1e9:.0f} GFLOP/s in {arguments.precision}")
    for graph in arguments.graphs:
        with tempfile.TemporaryDirectory() as folder:
            model = openvino_core().read_model(graph if graph.endswith(".xml") else exported(graph, folder))
            model.reshape([1, *model.input(0).get_partial_shape()[1:]])
            products = sum(map(operations, filter(is_product, model.get_ops())))
            parts = profile(model, arguments.precision, arguments.rounds)
        least = products / rate
        print(f"\n{graph}: {sum(parts.values()):.1f} ms")
        print(f"least for its products, {products / 1e9:.2f} GFLOP: {1000 * least:.1f} ms")
        for part, milliseconds in parts.most_common():
            print(f"{part:>24} {milliseconds:7.2f} ms")


def exported(name: str, folder: str) -> Path:
    """The graph of a variant; with random weights, but for the bundled."""
    variant, weights = get_variant(name), None
    if variant is not BUNDLED:
        random, weights = np.random.default_rng(0), Path(folder) / "random.safetensors"
        shapes = {key: one.shape for key, one in timm_tensors(variant.config).items()}
        save_file({key: random.normal(0, 0.02, shape).astype("f") for key, shape in shapes.items()}, weights)
    return Graphs(resolve(weights=weights)).path(names.NETWORK)


def is_product(operation: Any) -> bool:
    """Whether it multiplies matrices; a convolution here is one too, of the image's patches."""
    return operation.get_type_name() in ("MatMul", "Convolution")


def operations(product: Any) -> int:
    """How many multiplications and additions a product takes."""
    given, weights = (list(product.input_value(place).shape) for place in (0, 1))
    if product.get_type_name() == "Convolution":
        return 2 * prod(product.output(0).shape) * prod(weights[1:])
    inner = given[-2] if product.get_attributes()["transpose_a"] else given[-1]
    return 2 * prod(product.output(0).shape) * inner


def profile(model: Any, precision: str, rounds: int) -> Counter[str]:
    """Milliseconds of one image by kind of operation."""
    options = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": "YES",
    }
    request = openvino_core().compile_model(model, "CPU", options).create_infer_request()
    image = np.random.default_rng(0).standard_normal(model.input(0).shape).astype(np.float32)
    seen: dict[str, list[float]] = {}
    for _ in range(rounds + 3):
        request.infer([image])
        parts: Counter[str] = Counter()
        for node in request.get_profiling_info():
            parts[node.node_type] += node.real_time.total_seconds() * 1000
        for part, milliseconds in parts.items():
            seen.setdefault(part, []).append(milliseconds)
    medians = {part: statistics.median(times[3:]) for part, times in seen.items()}
    return Counter({part: time for part, time in medians.items() if time >= 0.01})


def rate_of_products(precision: str, rounds: int) -> float:
    """Operations a second of one large product of a matrix and weights."""
    import openvino
    from openvino import opset13

    rows = opset13.parameter([LARGE, LARGE], np.float32)
    weights = opset13.constant(np.random.default_rng(0).standard_normal((LARGE, LARGE)).astype(np.float32))
    product = opset13.matmul(rows, weights, transpose_a=False, transpose_b=True)
    parts = profile(openvino.Model([product], [rows]), precision, rounds)
    return 2 * LARGE**3 / (max(parts.values()) / 1000)


if __name__ == "__main__":
    main()
