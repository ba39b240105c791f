"""MobileNetV2 1.0 at 224×224, 1000 classes, as a graph of plain nodes: what a trained one costs, without its weights.

Batch normalisation is folded into the convolutions, as every exporter does. Weights are drawn (He et al.), the convolutions that close a
block with half the variance, so that values stay of order one through all 17 blocks.
"""
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T, helper as h, numpy_helper as nh

# Expansion, channels, repeats, stride of the first.
BLOCKS = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def build(seed, pictures):
    """`pictures`: prepared ones [pictures, 3, 224, 224], whose features the classifier is set to tell apart."""
    random = np.random.default_rng(seed)
    nodes, weights = [], []

    def constant(name, value):
        weights.append(nh.from_array(value, name))
        return name

    def conv(x, name, inputs, outputs, size, stride=1, groups=1, gain=2.0, clip=True):
        value = random.standard_normal((outputs, inputs // groups, size, size)) * np.sqrt(gain / (inputs // groups * size * size))
        if size > 1:
            # Mostly smoothing, as filters over pictures are: those drawn freely see little but the pixels' noise.
            colours = random.standard_normal((outputs, 3, 1, 1)) if groups == 1 else 1.0
            value = colours * (1 + 0.5 * random.standard_normal(value.shape)) * np.sqrt(gain) / 9
        w = constant(f"{name}.weight", value.astype(np.float32))
        b = constant(f"{name}.bias", (random.standard_normal(outputs) * 0.1).astype(np.float32))
        nodes.append(h.make_node("Conv", [x, w, b], [name], name=name, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[size // 2] * 4, group=groups))
        if not clip:
            return name
        nodes.append(h.make_node("Clip", [name, "zero", "six"], [f"{name}.relu6"], name=f"{name}.relu6"))
        return f"{name}.relu6"

    constant("zero", np.array(0, np.float32)), constant("six", np.array(6, np.float32))
    x, channels = conv("pixel_values", "stem", 3, 32, 3, stride=2), 32
    count = 0
    for expansion, outputs, repeats, stride in BLOCKS:
        for k in range(repeats):
            name, y, wide = f"block{count}", x, channels * expansion
            if expansion != 1:
                y = conv(y, f"{name}.expand", channels, wide, 1)
            y = conv(y, f"{name}.depthwise", wide, wide, 3, stride=stride if k == 0 else 1, groups=wide)
            y = conv(y, f"{name}.project", wide, outputs, 1, gain=1.0, clip=False)
            if k > 0:
                nodes.append(h.make_node("Add", [x, y], [f"{name}.sum"], name=f"{name}.sum"))
                y = f"{name}.sum"
            x, channels, count = y, outputs, count + 1
    x = conv(x, "head", channels, 1280, 1)
    nodes.append(h.make_node("GlobalAveragePool", [x], ["pooled"], name="pooled"))
    nodes.append(h.make_node("Flatten", ["pooled"], ["features"], name="features"))
    w = constant("classifier.weight", np.empty((1000, 1280), np.float32))
    b = constant("classifier.bias", np.empty(1000, np.float32))
    nodes.append(h.make_node("Gemm", ["features", w, b], ["logits"], name="logits", transB=1))
    graph = h.make_graph(nodes, "mobilenet_v2", [h.make_tensor_value_info("pixel_values", T.FLOAT, ["batch", 3, 224, 224])],
                         [h.make_tensor_value_info("logits", T.FLOAT, ["batch", 1000])], weights)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)])
    model.ir_version = 8
    calibrate(model, random, pictures)
    onnx.checker.check_model(model)
    return model


def calibrate(model, random, pictures):
    """Draws the classifier for standardised features, and folds the standardising into it: pictures get different classes."""
    body = onnx.ModelProto()
    body.CopyFrom(model)
    del body.graph.node[-1:], body.graph.initializer[-2:], body.graph.output[:]
    body.graph.output.append(h.make_tensor_value_info("features", T.FLOAT, ["batch", 1280]))
    run = onnxruntime.InferenceSession(body.SerializeToString(), providers=["CPUExecutionProvider"])
    features = np.concatenate([run.run(None, {"pixel_values": picture[None]})[0] for picture in pictures])
    assert np.isfinite(features).all() and features.std() > 1e-3, "values do not stay of order one"
    # Along what tells pictures apart most, so that one grey level by which resizers round differently is nothing beside it.
    _, spread, directions = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    scaled = directions[:8] / spread[:8, None] * np.sqrt(len(pictures))
    weight = random.standard_normal((1000, 8)) @ scaled
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, value in (("classifier.weight", weight), ("classifier.bias", -weight @ features.mean(axis=0))):
        weights[name].CopyFrom(nh.from_array(value.astype(np.float32), name))
