"""The float graphs: MTCNN's three nets and the embedders' backbones, as ONNX opset 13.

Every net takes f32 [1, 3, height, width], RGB, 0 to 255: the normalisation is folded into the first convolution, which is exact
because that has no padding, or has been padded with what becomes 0. Dense layers are written as convolutions, channel softmax as a difference of logits.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from weights import read_dlib_net, read_tflite, read_torch_state

OPSET, IR_VERSION = 13, 8


class Graph:
    """Collects nodes and constants; each node is named after its only output."""

    def __init__(self, name):
        self.name, self.nodes, self.constants = name, [], []

    def constant(self, name, array):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operation, inputs, name, **attributes):
        self.nodes.append(helper.make_node(operation, inputs, [name], name=name, **attributes))
        return name

    def convolution(self, source, weights, bias, name, stride=1, pad=0, group=1):
        """`pad`: on all edges, or (above and below, left and right), or ONNX's four."""
        vertical, horizontal = (pad, pad) if isinstance(pad, int) else pad[:2]
        pads = list(pad) if not isinstance(pad, int) and len(pad) == 4 else [vertical, horizontal] * 2
        inputs = [source, self.constant(f"{name}_weights", weights.astype(np.float32))]
        inputs.append(self.constant(f"{name}_bias", bias.astype(np.float32)))
        grouped = {"group": group} if group > 1 else {}
        return self.add("Conv", inputs, name, kernel_shape=list(weights.shape[2:]), strides=[stride] * 2, pads=pads, **grouped)

    def model(self, input_shape, output_name, output_shape):
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
            [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, output_shape)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="facelatch")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        return model


def _prelu(graph, source, slopes, name):
    """max(x, a·x) where every slope is at most 1, else max(x, 0) + a·min(x, 0): cheaper than PRelu as one operation."""
    slopes = slopes.astype(np.float32).reshape(1, -1, 1, 1)
    if (slopes <= 1).all():
        scaled = graph.add("Mul", [source, graph.constant(f"{name}_slopes", slopes)], f"{name}_scaled")
        return graph.add("Max", [source, scaled], name)
    zero = graph.constant(f"{name}_zero", np.zeros((), np.float32))
    above = graph.add("Max", [source, zero], f"{name}_above")
    below = graph.add("Min", [source, zero], f"{name}_below")
    scaled = graph.add("Mul", [below, graph.constant(f"{name}_slopes", slopes)], f"{name}_scaled")
    return graph.add("Add", [above, scaled], name)


# Per net: pooling kernel after each convolution, shape of the map before the dense layer, number of the heads, input side.
MTCNN = {
    "pnet": ({1: 2}, None, 4, 12),
    "rnet": ({1: 3, 2: 3}, (64, 3, 3), 5, 24),
    "onet": ({1: 3, 2: 3, 3: 2}, (128, 3, 3), 6, 48),
}


def mtcnn(name, path):
    """Output 'out': channel 0 the face's logit, 1–4 the box's corrections, for O-Net 5–9 landmarks' x and 10–14 their y."""
    pools, dense_input, heads, side = MTCNN[name]
    state = {key: value.astype(np.float64) for key, value in read_torch_state(path).items()}
    graph, x, i = Graph(name), "input", 1
    while f"conv{i}.weight" in state:
        weights, bias = state[f"conv{i}.weight"], state[f"conv{i}.bias"]
        if i == 1:  # (pixel − 127.5) / 128
            weights, bias = weights / 128, bias - weights.sum((1, 2, 3)) * 127.5 / 128
        x = graph.convolution(x, weights, bias, f"conv{i}")
        x = _prelu(graph, x, state[f"prelu{i}.weight"], f"prelu{i}")
        if i in pools:  # rounded up in the original: padded at the end
            x = graph.add("MaxPool", [x], f"pool{i}", kernel_shape=[pools[i]] * 2, strides=[2, 2], pads=[0, 0, 1, 1])
        i += 1
    if dense_input:  # the original flattens by width, height, channel
        channels, height, width = dense_input
        weights = state[f"dense{i}.weight"].reshape(-1, width, height, channels).transpose(0, 3, 2, 1)
        x = graph.convolution(x, weights, state[f"dense{i}.bias"], f"dense{i}")
        x = _prelu(graph, x, state[f"prelu{i}.weight"], f"prelu{i}")
    prefix = f"dense{heads}" if dense_input else f"conv{heads}"
    weights, bias = [], []
    for head in range(1, 4 if name == "onet" else 3):
        w, b = state[f"{prefix}_{head}.weight"], state[f"{prefix}_{head}.bias"]
        w = w.reshape(len(w), -1)
        if head == 1:
            w, b = w[1:] - w[:1], b[1:] - b[:1]
        weights.append(w), bias.append(b)
    weights, bias = np.concatenate(weights)[:, :, None, None], np.concatenate(bias)
    if not dense_input:
        graph.convolution(x, weights, bias, "out")
        return graph.model([1, 3, "height", "width"], "out", [1, 5, "rows", "columns"])
    graph.convolution(x, weights, bias, "heads")
    graph.add("Flatten", ["heads"], "out", axis=1)
    return graph.model([1, 3, side, side], "out", [1, len(bias)])


def dlib_backbone(path):
    """dlib's face recognition ResNet up to its last feature map, and its last layer.

    -> (model with output 'features' [1, 256, 2, 2], last layer f32 [128, 1024] over the map flattened by channel, row, column).
    Affine layers are folded into the convolutions before them. A shortcut with fewer channels or a larger map than the main
    branch is zero-padded, as add_prev does.
    """
    mean, side, layers = read_dlib_net(path)
    graph, x, channels, size = Graph("dlib"), "input", 3, side
    remembered, counts, i, last = [], {"conv": 0, "relu": 0, "block": 0, "add": 0}, 0, None

    def number(kind):
        counts[kind] += 1
        return f"{kind}{counts[kind]}"

    while i < len(layers):
        layer = layers[i]
        kind = layer["kind"]
        if kind == "con":
            gamma, beta = layers[i + 1]["gamma"], layers[i + 1]["beta"]
            weights = layer["weights"] * gamma[:, None, None, None]
            bias = layer["bias"] * gamma + beta
            if counts["conv"] == 0:  # (pixel − mean) / 256
                bias = bias - (weights * mean[None, :, None, None]).sum((1, 2, 3)) / 256
                weights = weights / 256
            pad, stride = layer["pad"][0], layer["stride"][0]
            x = graph.convolution(x, weights, bias, number("conv"), stride, pad)
            size, channels, i = (size + 2 * pad - weights.shape[2]) // stride + 1, len(weights), i + 2
        elif kind == "relu":
            x, i = graph.add("Relu", [x], number("relu")), i + 1
        elif kind == "max_pool":
            x, size, i = graph.add("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2]), (size - 3) // 2 + 1, i + 1
        elif kind == "tag" and i + 1 < len(layers) and layers[i + 1]["kind"] == "skip":
            shortcut, shortcut_channels, shortcut_size = remembered.pop()
            block = number("block")
            pooled = graph.add("AveragePool", [shortcut], f"{block}_pool", kernel_shape=[2, 2], strides=[2, 2])
            pooled_size = (shortcut_size - 2) // 2 + 1
            more = channels - shortcut_channels
            if more:
                pads = graph.constant(f"{block}_channels", np.array([0, 0, 0, 0, 0, more, 0, 0], np.int64))
                pooled = graph.add("Pad", [pooled, pads], f"{block}_wider")
            if size < pooled_size:
                edge = pooled_size - size
                pads = graph.constant(f"{block}_edge", np.array([0, 0, 0, 0, 0, 0, edge, edge], np.int64))
                x, size = graph.add("Pad", [x, pads], f"{block}_larger"), pooled_size
            x, i = graph.add("Add", [x, pooled], number("add")), i + 4
        elif kind == "tag":
            remembered.append((x, channels, size))
            i += 1
        elif kind == "add_prev":
            x, i = graph.add("Add", [x, remembered.pop()[0]], number("add")), i + 1
        elif kind == "avg_pool" and layers[i + 1]["kind"] == "fc":
            dense = layers[i + 1]["weights"].T / (size * size)  # [128, channels], the mean over the map folded in
            last = np.repeat(dense[:, :, None], size * size, axis=2).reshape(len(dense), -1).astype(np.float32)
            i += 2
        else:
            raise ValueError(f"unexpected layer {kind}")
    graph.nodes[-1].output[0] = graph.nodes[-1].name = "features"
    return graph.model([1, 3, side, side], "features", [1, channels, size, size]), last


def mobilefacenet(path):
    """The graph and the last layer of a .tflite file; ValueError names a file that holds another net."""
    try:
        return _mobilefacenet(path)
    except (LookupError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        if path in str(error):
            raise
        raise ValueError(f"{path}: its layers do not fit together ({error!r})") from error


def _mobilefacenet(path):
    """MobileFaceNet's backbone up to its last feature map, and its last layer.

    -> (model with output 'features' [1, 512, 1, 1], last layer f32 [192, 512]). Two pointwise convolutions with
    nothing between them become one: so do the two dense layers at the end. Their bias goes into the features.
    """
    layers = _merge(_tflite_layers(path))
    (*layers, deepest, dense) = layers
    if deepest["kind"] != "conv" or dense["kind"] != "conv" or dense["from"] != [deepest["to"]]:
        raise ValueError(f"{path}: it does not end with a map of features and a dense layer")
    last = dense["weights"][:, :, 0, 0]
    # last · (x + y) = last · x + bias: the smallest y.
    deepest["bias"] = deepest["bias"] + np.linalg.lstsq(last, dense["bias"], rcond=None)[0]
    graph, counts = Graph("mobilefacenet"), {}
    names = {layers[0]["from"][0]: "input"}
    for layer in (*layers, deepest):
        kind = layer["kind"] if layer.get("group", 1) == 1 else "depthwise"
        counts[kind] = counts.get(kind, 0) + 1
        name, sources = f"{kind}{counts[kind]}", [names[source] for source in layer["from"]]
        if kind == "prelu":
            slopes = layer["slopes"].astype(np.float32).reshape(-1, 1, 1)
            names[layer["to"]] = graph.add("PRelu", [*sources, graph.constant(f"{name}_slopes", slopes)], name)
        elif kind == "add":
            names[layer["to"]] = graph.add("Add", sources, name)
        else:
            weights, bias, pad = layer["weights"], layer["bias"], layer["pad"]
            if sources == ["input"]:  # (pixel − 127.5) / 128, and what lies beside the picture is 0 after it
                weights, bias = weights / 128, bias - weights.sum((1, 2, 3)) * 127.5 / 128
                pads = graph.constant("edge", np.array([0, 0, *pad[:2], 0, 0, *pad[2:]], np.int64))
                # No constant(), which makes a list of a single number.
                graph.constants.append(numpy_helper.from_array(np.array(127.5, np.float32), "grey"))
                sources, pad = [graph.add("Pad", ["input", pads, "grey"], "padded")], 0
            names[layer["to"]] = graph.convolution(*sources, weights, bias, name, layer["stride"], pad, layer["group"])
    graph.nodes[-1].output[0] = graph.nodes[-1].name = "features"
    side = layers[0]["side"]
    return graph.model([1, 3, side, side], "features", [1, len(deepest["bias"]), 1, 1]), last.astype(np.float32)


def _tflite_layers(path):
    """Convolutions, PReLUs and sums, channels first; another operator is an error."""
    operators, arrays, shapes, (source,), _ = read_tflite(path)
    if shapes[source][1] != shapes[source][2] or shapes[source][3] != 3:
        raise ValueError(f"{path}: the input's shape is {shapes[source]}, known is a square of three channels")
    layers, halves = [], {}
    for index, (kind, options, inputs, (output,)) in enumerate(operators):
        unknown = ValueError(f"{path}: operator {index} ({kind}) is used in a way that is not known")
        if options.get("activation") or options.get("dilation_w", 1) != 1 or options.get("dilation_h", 1) != 1:
            raise unknown
        if kind in ("conv", "depthwise"):
            layers.append(_tflite_convolution(kind, options, inputs, output, arrays, shapes))
        elif kind in ("relu", "abs"):
            halves[output] = (kind, inputs[0])
        elif kind == "sub" and halves.get(inputs[1]) == ("abs", inputs[0]):
            halves[output] = ("twice below zero", inputs[0])
        elif kind == "mul" and inputs[0] in arrays and halves.get(inputs[1], [""])[0] == "twice below zero":
            halves[output] = ("scaled", halves[inputs[1]][1], 2 * arrays[inputs[0]])
        elif kind == "add" and [half[0] for half in map(halves.get, inputs) if half] == ["relu", "scaled"]:
            (_, above), (_, below, slopes) = map(halves.get, inputs)
            if above != below:
                raise unknown
            layers.append({"kind": "prelu", "from": [above], "to": output, "slopes": slopes})
        elif kind == "add" and not any(name in halves or name in arrays for name in inputs):
            layers.append({"kind": "add", "from": inputs, "to": output})
        elif kind == "reshape" and index == len(operators) - 1:
            pass
        else:
            raise unknown
    return layers


def _tflite_convolution(kind, options, inputs, output, arrays, shapes):
    weights = arrays[inputs[1]].transpose((0, 3, 1, 2) if kind == "conv" else (3, 0, 1, 2))
    (side, stride), size = (shapes[inputs[0]][1], options["stride_h"]), weights.shape[2]
    missing = 0 if options["valid"] else max((-(-side // stride) - 1) * stride + size - side, 0)
    pad = [missing // 2] * 2 + [missing - missing // 2] * 2
    group = 1 if kind == "conv" else len(weights)
    layer = {"kind": "conv", "from": inputs[:1], "to": output, "weights": weights, "bias": arrays[inputs[2]]}
    return {**layer, "stride": stride, "pad": pad, "group": group, "side": side}


def _merge(layers):
    """One convolution in place of two where a pointwise one follows, and nothing else reads what lies between."""
    merged = []
    for layer in layers:
        before = merged[-1] if merged else None
        reads = before and layer["from"] == [before["to"]] and sum(before["to"] in other["from"] for other in layers) == 1
        if reads and all(it["kind"] == "conv" and it["group"] == 1 and it["weights"].shape[2] == 1 for it in (before, layer)):
            outer = layer["weights"][:, :, 0, 0]
            bias = layer["bias"] + outer @ before["bias"]
            merged[-1] = {**before, "to": layer["to"], "bias": bias, "weights": np.tensordot(outer, before["weights"], 1)}
        else:
            merged.append(layer)
    return merged
