"""8-bit graphs from float graphs and measured activation ranges; and back to float arithmetic with the same 8-bit weights.

One file serves both: run as it is, it calculates in integers; `dequantized` shows what the program makes of it at load when it
is to calculate in floating point. Weights: symmetric, one scale per tensor, zero point 0. Activations: unsigned, one scale and zero point per tensor.

The rule both directions rely on: a QLinearConv whose output's zero point is 0 has absorbed a Relu; any other has not. It is checked here.

Where PReLU follows a convolution, `integer` writes ConvInteger instead: what PReLU gets is not rounded to 8 bits, and each
output channel has a scale of its own at no cost. `Channels` scales the channels between layers before.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper


def equalize(model):
    """Cross-layer equalization (Nagel et al. 2019, section 4.1) of Conv → Relu → Conv: scales each channel between the two so
    that both layers use the 8 bits alike. The float graph's output does not change."""
    graph = model.graph
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.initializer}
    maker = {node.output[0]: node for node in graph.node}
    readers = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for relu in (node for node in graph.node if node.op_type == "Relu"):
        first, after = maker.get(relu.input[0]), readers.get(relu.output[0], [])
        if first is None or first.op_type != "Conv" or len(readers[first.output[0]]) != 1:
            continue
        if len(after) != 1 or after[0].op_type != "Conv":
            continue
        weights, next_weights = first.input[1], after[0].input[1]
        own, other = np.abs(arrays[weights]).max((1, 2, 3)), np.abs(arrays[next_weights]).max((0, 2, 3))
        scale = np.sqrt(own / np.maximum(other, 1e-9))
        scale[(own < 1e-9) | (other < 1e-9)] = 1
        scale = np.clip(scale, 1e-2, 1e2)
        arrays[weights] /= scale[:, None, None, None]
        arrays[first.input[2]] /= scale
        arrays[next_weights] *= scale[None, :, None, None]
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return model


class Channels:
    """Scales of the channels between layers, which leave the net's output as it is (PReLU is positively homogeneous).

    A group is what must be scaled alike: what one PReLU gives, or all maps that sums bring together. It is called after the last.
    """

    def __init__(self, model):
        self.model, self.groups = model, {}
        self.arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        makers, maps = {}, []
        for node in model.graph.node:
            if node.op_type in ("Conv", "PRelu"):
                makers[node.output[0]] = makers.pop(node.input[0], None) if node.op_type == "PRelu" else node
            if node.op_type == "PRelu":
                maps.append({node.output[0]})
            if node.op_type == "Add":
                together = {*node.input, node.output[0]}
                maps = [*(it for it in maps if not it & together), together.union(*(it for it in maps if it & together))]
        for tensors in maps:
            readers = [node for node in convolutions if node.input[0] in tensors]
            ordered = [node.output[0] for node in model.graph.node if node.output[0] in tensors]
            self.groups[ordered[-1]] = (ordered, [makers[name] for name in ordered if makers.get(name)], readers)

    def equalized(self, exponents):
        """The model with channel c of each group divided by 2^(exponents[c] / 4)."""
        return self._scaled({name: 2.0 ** (np.array(values) / 4) for name, values in exponents.items()})

    def in_steps(self, ranges):
        """-> (model, ranges) in which a step of 8 bits is 1 behind every PReLU, so that quantizing divides by nothing."""
        ranges, scales = dict(ranges), {}
        for name, (tensors, _, _) in self.groups.items():
            if len(tensors) == 1 and name in ranges:
                low, high = min(ranges[name][0], 0.0), max(ranges[name][1], 0.0)
                scales[name] = (high - low) / 255
                zero = round(-low / scales[name])
                ranges[name] = [-float(zero), 255.0 - zero]
        return self._scaled(scales), ranges

    def exponents(self, greatest):
        """What `equalized` takes, of the greatest absolute value of each tensor's channels.

        A depthwise convolution takes any scale, its weights have one for each channel. Before others the channel's weights count
        a quarter (Xiao et al. 2023, SmoothQuant, equation 4, alpha .75, found by measurement)."""
        result = {}
        for name, (tensors, _, readers) in self.groups.items():
            known = [greatest[tensor] for tensor in tensors if tensor in greatest]
            if not known:
                continue
            scale = _floor(np.max(known, 0))
            if not all(_group(node) > 1 for node in readers):
                axes = [((1, 2, 3) if _group(node) > 1 else (0, 2, 3), self.arrays[node.input[1]]) for node in readers]
                scale = scale**0.75 / _floor(np.max([np.abs(weights).max(axis) for axis, weights in axes], 0)) ** 0.25
            logarithms = np.log2(scale)
            result[name] = np.round((logarithms - logarithms.mean()) * 4).astype(int).tolist()
        return result

    def _scaled(self, scales):
        arrays = dict(self.arrays)
        for name, scale in scales.items():
            _, makers, readers = self.groups[name]
            for node in makers:
                arrays[node.input[1]] = arrays[node.input[1]] / np.reshape(scale, (-1, 1, 1, 1))
                arrays[node.input[2]] = arrays[node.input[2]] / scale
            for node in readers:
                axes = (-1, 1, 1, 1) if _group(node) > 1 else (1, -1, 1, 1)
                arrays[node.input[1]] = arrays[node.input[1]] * np.reshape(scale, axes)
        result = onnx.ModelProto()
        result.CopyFrom(self.model)
        for tensor in result.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
        return result


def _group(node):
    return next((a.i for a in node.attribute if a.name == "group"), 1)


def _floor(values):
    return np.maximum(values, 1e-3 * values.max())


def integer(model, ranges, keep_float=()):
    """-> the 8-bit model with ConvInteger: its sums, with a bias of 32 bits, times a scale for each output channel."""
    constants, nodes, quantized = {t.name: t for t in model.graph.initializer}, [], {}

    def store(name, array):
        constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def add(operation, inputs, name, **attributes):
        nodes.append(helper.make_node(operation, inputs, [name], name=name, **attributes))
        return name

    def as_quantized(name):
        if name not in quantized:
            scale, zero = _activation(*ranges[name])
            parameters = [store(f"{name}_scale", scale), store(f"{name}_zero", zero)]
            quantized[name] = (add("QuantizeLinear", [name, *parameters], f"{name}_u8"), parameters[1], scale)
        return quantized[name]

    weight_zero = store("weight_zero", np.int8(0))
    for node in model.graph.node:
        if node.op_type != "Conv" or node.name in keep_float:
            nodes.append(node)
            continue
        source, zero, x_scale = as_quantized(node.input[0])
        weights, bias = (numpy_helper.to_array(constants.pop(name)).astype(np.float64) for name in node.input[1:])
        w_scale = np.maximum(np.abs(weights).max((1, 2, 3)), 1e-12) / 127
        scale = (w_scale * float(x_scale)).astype(np.float32)
        values = np.round(weights / w_scale[:, None, None, None]).astype(np.int8)
        inputs = [source, store(node.input[1], values), zero, weight_zero]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        sums = add("ConvInteger", inputs, f"{node.name}_sums", **attributes)
        bias = np.round(bias / scale).astype(np.int32).reshape(-1, 1, 1)
        sums = add("Add", [sums, store(node.input[2], bias)], f"{node.name}_biased")
        sums = add("Cast", [sums], f"{node.name}_real", to=onnx.TensorProto.FLOAT)
        scales = store(f"{node.name}_scales", scale.reshape(-1, 1, 1))
        add("Mul", [sums, scales], node.name)
        nodes[-1].output[0] = node.output[0]
    return _assemble(model, nodes, constants)


def absorbed_relus(model):
    """{name of a convolution: name of the Relu that is its only reader}."""
    readers = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    pairs = {}
    for node in model.graph.node:
        after = readers.get(node.output[0], [])
        if node.op_type == "Conv" and len(after) == 1 and after[0].op_type == "Relu":
            pairs[node.name] = after[0].name
    return pairs


def quantized_tensors(model, keep_float=(), inputs_only=False):
    """The tensors whose ranges must be known: inputs and outputs of the convolutions to be quantized."""
    relus, names = absorbed_relus(model), []
    for node in model.graph.node:
        if node.op_type == "Conv" and node.name not in keep_float:
            names += [node.input[0]] if inputs_only else [node.input[0], relus.get(node.name, node.output[0])]
    return list(dict.fromkeys(names))


def _activation(low, high):
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255)
    return scale, np.uint8(np.clip(round(-low / float(scale)), 0, 255))


def quantize(model, ranges, keep_float=(), per_channel=()):
    """-> the 8-bit model. `ranges`: {tensor: [least, greatest value]}; `keep_float`: convolutions left as they are;
    `per_channel`: those whose weights have a scale per output channel, which is nearer but slower in integers."""
    constants = {t.name: t for t in model.graph.initializer}
    relus = absorbed_relus(model)
    parameters, quantized, floating, nodes = {}, {}, {"input"}, []

    def store(name, array):
        constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def parameters_of(name):
        if name not in parameters:
            scale, zero = _activation(*ranges[name])
            parameters[name] = [store(f"{name}_scale", scale), store(f"{name}_zero", zero)]
        return parameters[name]

    def as_quantized(name):
        if name not in quantized:
            quantized[name] = f"{name}_u8"
            inputs = [name, *parameters_of(name)]
            nodes.append(helper.make_node("QuantizeLinear", inputs, [quantized[name]], name=quantized[name]))
        return quantized[name]

    def as_float(name):
        if name in quantized and name not in floating:
            floating.add(name)
            inputs = [quantized[name], *parameters[name]]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_f32"))
        return name

    weight_zero = store("weight_zero", np.int8(0))
    for node in model.graph.node:
        if node.op_type == "Conv" and node.name not in keep_float:
            target = relus.get(node.name, node.output[0])
            source = as_quantized(node.input[0])
            x_scale = numpy_helper.to_array(constants[parameters_of(node.input[0])[0]])
            weights = numpy_helper.to_array(constants.pop(node.input[1])).astype(np.float64)
            bias = numpy_helper.to_array(constants.pop(node.input[2])).astype(np.float64)
            axes = (1, 2, 3) if node.name in per_channel else None
            w_scale = np.maximum(np.abs(weights).max(axes), 1e-12).astype(np.float32) / np.float32(127)
            shaped = w_scale.reshape(-1, 1, 1, 1).astype(np.float64)
            values = np.clip(np.round(weights / shaped), -127, 127).astype(np.int8)
            bias_values = np.round(bias / (float(x_scale) * w_scale.astype(np.float64))).astype(np.int32)
            low = ranges[target][0]
            zero = numpy_helper.to_array(constants[parameters_of(target)[1]])
            if (node.name in relus) != (int(zero) == 0):
                raise ValueError(f"{node.name}: output range starts at {low}, zero point {zero}: the Relu rule is broken")
            inputs = [source, *parameters_of(node.input[0]), store(node.input[1], values)]
            inputs += [store(f"{node.name}_weight_scale", w_scale)]
            inputs += [store(f"{node.name}_weight_zeros", np.zeros(len(w_scale), np.int8)) if node.name in per_channel else weight_zero]
            inputs += [*parameters_of(target), store(node.input[2], bias_values)]
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            quantized[target] = f"{target}_u8"
            nodes.append(helper.make_node("QLinearConv", inputs, [quantized[target]], name=node.name, **attributes))
        elif node.op_type == "Relu" and node.name in relus.values():
            continue
        elif node.op_type == "MaxPool" and node.input[0] in quantized and node.input[0] not in floating:
            source, target = node.input[0], node.output[0]
            quantized[target], parameters[target] = f"{target}_u8", parameters[source]
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            pooled = helper.make_node("MaxPool", [quantized[source]], [quantized[target]], name=node.name, **attributes)
            nodes.append(pooled)
        else:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [name if name in constants else as_float(name) for name in node.input]
            floating.update(node.output)
            nodes.append(copy)
    return _assemble(model, nodes, constants)


def dequantized(model):
    """The same net in floating-point arithmetic, as the program rewrites it at load."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    constants, renamed, nodes = {t.name: t for t in model.graph.initializer}, {}, []
    scales, sums = {}, {}

    def store(name, array):
        constants[name] = numpy_helper.from_array(np.asarray(array, np.float32), name)
        return name

    for node in model.graph.node:
        inputs = [renamed.get(name, name) for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            renamed[node.output[0]] = inputs[0]
            scales[node.output[0]] = arrays.get(inputs[1])
        elif node.op_type == "ConvInteger":
            sums[node.output[0]] = (node, inputs[0], arrays[inputs[1]], scales[node.input[0]], None)
        elif node.op_type in ("Add", "Cast") and node.input[0] in sums:
            (*convolution, bias) = sums.pop(node.input[0])
            sums[node.output[0]] = (*convolution, arrays[node.input[1]] if node.op_type == "Add" else bias)
        elif node.op_type == "Mul" and node.input[0] in sums:
            convolution, source, weights, x_scale, bias = sums.pop(node.input[0])
            scale = arrays[inputs[1]].reshape(-1)
            weights = weights.astype(np.float32) * (scale / x_scale).reshape(-1, 1, 1, 1)
            bias = bias.reshape(-1).astype(np.float64) * scale.astype(np.float64)
            floats = [source, store(f"{node.name}_w", weights), store(f"{node.name}_b", bias)]
            attributes = {a.name: helper.get_attribute_value(a) for a in convolution.attribute}
            nodes.append(helper.make_node("Conv", floats, [node.output[0]], name=node.name, **attributes))
        elif node.op_type == "QLinearConv":
            x_scale, w_scale = arrays[inputs[1]], arrays[inputs[4]]
            weights = arrays[inputs[3]].astype(np.float32) * w_scale.reshape(-1, 1, 1, 1)
            bias = arrays[inputs[8]].astype(np.float64) * float(x_scale) * w_scale.astype(np.float64)
            rectified = int(arrays[inputs[7]]) == 0
            target = f"{node.name}_linear" if rectified else node.output[0]
            floats = [inputs[0], store(f"{node.name}_w", weights), store(f"{node.name}_b", bias)]
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            nodes.append(helper.make_node("Conv", floats, [target], name=node.name, **attributes))
            if rectified:
                nodes.append(helper.make_node("Relu", [target], [node.output[0]], name=f"{node.name}_relu"))
        else:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = inputs
            nodes.append(copy)
    return _assemble(model, nodes, constants)


def _assemble(model, nodes, constants):
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    used = {name for node in nodes for name in node.input}
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(constants[name] for name in sorted(constants) if name in used)
    onnx.checker.check_model(result)
    return result
