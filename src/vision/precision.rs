//! One model file, two arithmetics.
//!
//! The shipped nets are stored with 8-bit weights and 8-bit activations (ONNX `QLinearConv`, `QuantizeLinear`,
//! `DequantizeLinear`). Run as they are, they calculate in integers. Here they are rewritten, before the network library
//! sees them, to the same net with the same 8-bit weights but floating-point arithmetic: every real number that a quantized tensor
//! stands for is `(q − zero point) · scale`, so
//!
//! * `QLinearConv` becomes `Conv` with weights `w · scale_w` and bias `b · scale_x · scale_w`;
//! * where its output's zero point is the least number of its type (0 of unsigned ones), numbers below zero could not be
//!   represented: the quantized net's rectifier (the exporter relies on this rule and checks it), so a `Relu` follows;
//! * `QuantizeLinear` and `DequantizeLinear` of activations disappear;
//! * `ConvInteger`, the bias added to its sums, `Cast` and the product with a scale for each output become `Conv` with weights
//!   `w · scale / scale_x` and bias `b · scale`.
//!
//! Operations on quantized tensors that only move or choose numbers (`MaxPool`, `Reshape`) stay as they are.

use std::collections::HashMap;

use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};

/// Rewrites a quantized net to floating-point arithmetic. A net without quantized operations is left as it is.
///
/// # Errors
/// A sentence for people when the graph is not of the form described above.
pub(super) fn to_float_arithmetic(model: &mut ModelProto) -> Result<(), String> {
    let graph = model.graph.as_mut().ok_or("the file holds no graph")?;
    let mut rewrite = Rewrite::new(graph)?;
    for node in std::mem::take(&mut graph.node) {
        rewrite.node(node)?;
    }
    if let Some(sums) = rewrite.sums.values().next() {
        return Err(format!("{}: its sums are not multiplied by a scale", sums.convolution.name));
    }
    rewrite.finish(graph);
    Ok(())
}

struct Rewrite {
    constants: HashMap<String, TensorProto>,
    /// What a dropped node's output is called now.
    renamed: HashMap<String, String>,
    nodes: Vec<NodeProto>,
    outputs: Vec<String>,
    /// The scale of each quantized tensor.
    scales: HashMap<String, String>,
    /// Sums of integers that were not multiplied by their scale yet.
    sums: HashMap<String, Sums>,
}

/// What has been read of a convolution of integers.
struct Sums {
    convolution: NodeProto,
    input_scale: f32,
    bias: Vec<i32>,
}

impl Rewrite {
    fn new(graph: &mut GraphProto) -> Result<Rewrite, String> {
        let constants = std::mem::take(&mut graph.initializer).into_iter().map(|t| (t.name.clone(), t)).collect();
        let outputs = graph.output.iter().map(|output| output.name.clone()).collect();
        let (renamed, scales, sums) = (HashMap::new(), HashMap::new(), HashMap::new());
        Ok(Rewrite { constants, renamed, nodes: Vec::new(), outputs, scales, sums })
    }

    fn node(&mut self, mut node: NodeProto) -> Result<(), String> {
        let quantized = node.input.first().cloned().unwrap_or_default();
        for input in &mut node.input {
            if let Some(new) = self.renamed.get(input) {
                *input = new.clone();
            }
        }
        match node.op_type.as_str() {
            "ConvInteger" => self.integer_convolution(node, &quantized)?,
            "Add" | "Cast" | "Mul" if self.sums.contains_key(&quantized) => self.sums(node, &quantized)?,
            "QuantizeLinear" => {
                if let ([_, scale, ..], [output]) = (&node.input[..], &node.output[..]) {
                    self.scales.insert(output.clone(), scale.clone());
                }
                self.pass_through(node);
            }
            // Quantized weights kept beside a floating-point operation: the network library unfolds these itself.
            "DequantizeLinear" if self.constants.contains_key(&node.input[0]) => self.nodes.push(node),
            "DequantizeLinear" => self.pass_through(node),
            "QLinearConv" => self.convolution(node)?,
            other if other.starts_with("QLinear") || other.ends_with("Integer") => {
                return Err(format!("the operation {other} ({}) has no floating-point form here", node.name));
            }
            _ => self.nodes.push(node),
        }
        Ok(())
    }

    fn pass_through(&mut self, node: NodeProto) {
        let (input, output) = (node.input[0].clone(), node.output[0].clone());
        if self.outputs.contains(&output) {
            self.nodes.push(NodeProto { op_type: "Identity".into(), input: vec![input], ..node });
        } else {
            self.renamed.insert(output, input);
        }
    }

    fn integer_convolution(&mut self, node: NodeProto, quantized: &str) -> Result<(), String> {
        let [_, _, _, ref weight_zero] = node.input[..] else {
            return Err(format!("{}: a ConvInteger with both zero points is known only", node.name));
        };
        if self.integers(weight_zero)? != [0] {
            return Err(format!("{}: weights whose zero point is not 0 are not known", node.name));
        }
        let scale = self.scales.get(quantized).ok_or_else(|| format!("{quantized} has no known scale"))?;
        let input_scale = self.floats(scale)?[0];
        self.sums.insert(node.output[0].clone(), Sums { convolution: node, input_scale, bias: Vec::new() });
        Ok(())
    }

    /// One of the operations behind a convolution of integers; the last makes it one of real numbers.
    fn sums(&mut self, node: NodeProto, name: &str) -> Result<(), String> {
        let Some(mut sums) = self.sums.remove(name) else { return Ok(()) };
        let constant = node.input.get(1);
        match (node.op_type.as_str(), constant) {
            ("Add", Some(bias)) if sums.bias.is_empty() => sums.bias = self.integers(bias)?,
            ("Cast", None) => {}
            ("Mul", Some(scales)) => {
                let scales = self.floats(scales)?;
                return self.real_convolution(sums, &scales, node.output);
            }
            _ => return Err(format!("{}: the operations behind ConvInteger are not of the known order", node.name)),
        }
        self.sums.insert(node.output[0].clone(), sums);
        Ok(())
    }

    fn real_convolution(&mut self, sums: Sums, scales: &[f32], output: Vec<String>) -> Result<(), String> {
        let Sums { convolution, input_scale, bias } = sums;
        let [input, weights, ..] = &convolution.input[..] else {
            return Err(format!("{}: it has no weights", convolution.name));
        };
        let dims = self.constant(weights)?.dims.clone();
        let fits = dims.first() == Some(&(scales.len() as i64)) && bias.len() == scales.len();
        let real = dequantize(
            &self.integers(weights)?,
            |weight| weight,
            scales.len(),
            |output| (0, scales[output] / input_scale),
        );
        let Some(real) = real.filter(|_| fits) else {
            return Err(format!("{}: weights, bias and scales do not fit", convolution.name));
        };
        let bias = bias.iter().zip(scales).map(|(bias, scale)| (f64::from(*bias) * f64::from(*scale)) as f32);
        let bias = bias.flat_map(f32::to_le_bytes).collect();
        let [weights_name, bias_name] = ["weights", "bias"].map(|what| format!("{}_w8_{what}", convolution.name));
        let inputs = vec![input.clone(), weights_name.clone(), bias_name.clone()];
        self.constants.insert(weights_name.clone(), float_tensor(&weights_name, &dims, real));
        self.constants.insert(bias_name.clone(), float_tensor(&bias_name, &[scales.len() as i64], bias));
        self.nodes.push(NodeProto { op_type: "Conv".into(), input: inputs, output, ..convolution });
        Ok(())
    }

    fn convolution(&mut self, node: NodeProto) -> Result<(), String> {
        let [input, input_scale, _, weights, weight_scale, weight_zero, _, output_zero, bias @ ..] = &node.input[..]
        else {
            return Err(format!("{}: a QLinearConv has at least 8 inputs", node.name));
        };
        let input_scale = self.floats(input_scale)?[0];
        let weight_scales = self.floats(weight_scale)?;
        let weight_zeros = self.integers(weight_zero)?;
        let least = if self.constant(output_zero)?.data_type == DataType::Int8 as i32 { -128 } else { 0 };
        let rectified = self.integers(output_zero)?.iter().all(|zero| *zero == least);
        let quantized = self.constant(weights)?;
        let dims = quantized.dims.clone();
        let outputs = *dims.first().ok_or("a weight tensor has no dimensions")? as usize;
        let of_output = |numbers: &[f32], output: usize| numbers[output.min(numbers.len() - 1)];
        let zero_and_scale =
            |output: usize| (weight_zeros[output.min(weight_zeros.len() - 1)], of_output(&weight_scales, output));
        // As nearly all of them are, bytes are taken from where they lie: a net has millions.
        let is_bytes = quantized.data_type == DataType::Int8 as i32 && !quantized.raw_data.is_empty();
        let float_weights = if is_bytes {
            dequantize(&quantized.raw_data, |byte| (byte as i8).into(), outputs, zero_and_scale)
        } else {
            dequantize(&self.integers(weights)?, |number| number, outputs, zero_and_scale)
        };
        let float_weights = float_weights
            .filter(|_| [1, outputs].contains(&weight_scales.len()))
            .ok_or_else(|| format!("{}: weights and their scales do not fit", node.name))?;
        let name = format!("{}_w8", node.name);
        let mut inputs = vec![input.clone(), format!("{name}_weights")];
        let weight_tensor = float_tensor(&inputs[1], &dims, float_weights);
        self.constants.insert(inputs[1].clone(), weight_tensor);
        if let Some(bias) = bias.first().filter(|name| !name.is_empty()) {
            let float_bias = self.integers(bias)?.into_iter().enumerate().map(|(output, value)| {
                (value as f64 * input_scale as f64 * of_output(&weight_scales, output) as f64) as f32
            });
            let float_bias = float_bias.flat_map(f32::to_le_bytes).collect();
            inputs.push(format!("{name}_bias"));
            let bias_tensor = float_tensor(&inputs[2], &[outputs as i64], float_bias);
            self.constants.insert(inputs[2].clone(), bias_tensor);
        }
        let output = node.output[0].clone();
        let linear = if rectified { format!("{name}_linear") } else { output.clone() };
        let convolution = NodeProto { op_type: "Conv".into(), input: inputs, output: vec![linear.clone()], ..node };
        self.nodes.push(convolution);
        if rectified {
            self.nodes.push(NodeProto {
                op_type: "Relu".into(),
                name: format!("{name}_relu"),
                input: vec![linear],
                output: vec![output],
                ..NodeProto::default()
            });
        }
        Ok(())
    }

    fn finish(mut self, graph: &mut GraphProto) {
        for output in &mut graph.output {
            if let Some(new) = self.renamed.get(&output.name) {
                output.name = new.clone();
            }
        }
        // In a fixed order, so that the same file always gives the same plan.
        let mut used: Vec<&String> = self.nodes.iter().flat_map(|node| &node.input).collect();
        used.sort_unstable();
        used.dedup();
        graph.initializer = used.into_iter().filter_map(|name| self.constants.remove(name)).collect();
        graph.node = self.nodes;
    }

    fn constant(&self, name: &str) -> Result<&TensorProto, String> {
        self.constants.get(name).ok_or_else(|| format!("{name} is not a constant of the file"))
    }

    fn floats(&self, name: &str) -> Result<Vec<f32>, String> {
        let tensor = self.constant(name)?;
        if tensor.data_type != DataType::Float as i32 {
            return Err(format!("{name} is not a tensor of floating-point numbers"));
        }
        let from_raw = tensor.raw_data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let values: Vec<f32> = if tensor.raw_data.is_empty() { tensor.float_data.clone() } else { from_raw.collect() };
        if values.is_empty() { Err(format!("{name} is empty")) } else { Ok(values) }
    }

    fn integers(&self, name: &str) -> Result<Vec<i32>, String> {
        let tensor = self.constant(name)?;
        let raw = &tensor.raw_data;
        let values: Vec<i32> = if raw.is_empty() {
            tensor.int32_data.clone()
        } else {
            match DataType::try_from(tensor.data_type) {
                Ok(DataType::Int8) => raw.iter().map(|byte| *byte as i8 as i32).collect(),
                Ok(DataType::Uint8) => raw.iter().map(|byte| *byte as i32).collect(),
                Ok(DataType::Int32) => raw.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect(),
                _ => return Err(format!("{name} is not a tensor of 8- or 32-bit integers")),
            }
        };
        if values.is_empty() { Err(format!("{name} is empty")) } else { Ok(values) }
    }
}

/// Weights as real numbers. None if they cannot be shared out among the outputs.
fn dequantize<T: Copy>(
    weights: &[T],
    number: impl Fn(T) -> i32,
    outputs: usize,
    zero_and_scale: impl Fn(usize) -> (i32, f32),
) -> Option<Vec<u8>> {
    let per_output = weights.len().checked_div(outputs).filter(|per| *per > 0 && per * outputs == weights.len())?;
    let mut floats = Vec::with_capacity(weights.len());
    // One loop for each output, with nothing but its numbers in it.
    for (output, weights) in weights.chunks_exact(per_output).enumerate() {
        let (zero, scale) = zero_and_scale(output);
        floats.extend(weights.iter().map(|weight| (number(*weight).wrapping_sub(zero) as f32 * scale).to_le_bytes()));
    }
    Some(floats.into_flattened())
}

fn float_tensor(name: &str, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        raw_data,
        ..TensorProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integers(name: &str, data_type: DataType, values: &[i32]) -> TensorProto {
        let dims = if values.len() == 1 { vec![] } else { vec![1, values.len() as i64, 1, 1] };
        TensorProto {
            name: name.into(),
            dims,
            data_type: data_type as i32,
            int32_data: values.to_vec(),
            ..TensorProto::default()
        }
    }

    /// What a net of one quantized convolution becomes, given the type and zero point of its output.
    fn operations(output: DataType, zero: i32) -> Vec<String> {
        let names = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"];
        let node = NodeProto {
            op_type: "QLinearConv".into(),
            input: names.map(String::from).into(),
            output: vec!["y".into()],
            ..NodeProto::default()
        };
        let mut initializer = vec![
            integers("x_zero", DataType::Uint8, &[0]),
            integers("w", DataType::Int8, &[1, -2]),
            integers("w_zero", DataType::Int8, &[0]),
            integers("y_zero", output, &[zero]),
        ];
        initializer
            .extend(["x_scale", "w_scale", "y_scale"].map(|name| float_tensor(name, &[], 0.5f32.to_le_bytes().into())));
        let graph = GraphProto { node: vec![node], initializer, ..GraphProto::default() };
        let mut model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        to_float_arithmetic(&mut model).unwrap();
        model.graph.unwrap().node.into_iter().map(|node| node.op_type).collect()
    }

    /// A quantized input, a convolution of integers, and behind it the operations of these names.
    fn with_sums(behind: &[&str]) -> Result<GraphProto, String> {
        let node = |op_type: &str, input: &[&str], output: &str| NodeProto {
            op_type: op_type.into(),
            input: input.iter().map(|name| (*name).into()).collect(),
            output: vec![output.into()],
            ..NodeProto::default()
        };
        let mut nodes = vec![
            node("QuantizeLinear", &["x", "x_scale", "x_zero"], "q"),
            node("ConvInteger", &["q", "w", "x_zero", "w_zero"], "0"),
        ];
        for (index, operation) in behind.iter().enumerate() {
            let (from, to) = (index.to_string(), (index + 1).to_string());
            let inputs = match *operation {
                "Add" => vec![&*from, "bias"],
                "Mul" => vec![&*from, "scales"],
                _ => vec![&*from],
            };
            nodes.push(node(operation, &inputs, &to));
        }
        let mut weights = integers("w", DataType::Int8, &[3, -2]);
        weights.dims = vec![2, 1, 1, 1];
        let initializer = vec![
            weights,
            integers("x_zero", DataType::Uint8, &[7]),
            integers("w_zero", DataType::Int8, &[0]),
            integers("bias", DataType::Int32, &[10, -4]),
            float_tensor("x_scale", &[], 0.5f32.to_le_bytes().into()),
            float_tensor("scales", &[2, 1, 1], [0.25f32, 2.0].map(f32::to_le_bytes).as_flattened().into()),
        ];
        let graph = GraphProto { node: nodes, initializer, ..GraphProto::default() };
        let mut model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        to_float_arithmetic(&mut model)?;
        Ok(model.graph.unwrap())
    }

    #[test]
    fn sums_of_integers_become_one_real_convolution() {
        let graph = with_sums(&["Add", "Cast", "Mul", "PRelu"]).unwrap();
        let operations: Vec<&str> = graph.node.iter().map(|node| &*node.op_type).collect();
        assert_eq!(operations, ["Conv", "PRelu"]);
        assert_eq!((&*graph.node[0].input[0], &graph.node[0].output[..]), ("x", &graph.node[1].input[..]));
        let numbers = |index: usize| {
            let name = &graph.node[0].input[index];
            let raw = &graph.initializer.iter().find(|tensor| tensor.name == *name).unwrap().raw_data;
            raw.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>()
        };
        // A real number is half an integer, so a weight is twice what its output's scale makes of it.
        assert_eq!((numbers(1), numbers(2)), (vec![1.5, -8.0], vec![2.5, -8.0]));
    }

    #[test]
    fn sums_without_bias_and_scale_are_refused() {
        for behind in [&["Add", "Cast"][..], &["Cast", "Mul"], &["Add", "Add", "Cast", "Mul"], &["PRelu"], &[]] {
            let problem = with_sums(behind).unwrap_err();
            assert!(problem.contains("sums") || problem.contains("operations") || problem.contains("fit"), "{problem}");
        }
    }

    #[test]
    fn a_rectifier_stands_where_negative_numbers_had_no_place() {
        assert_eq!(operations(DataType::Uint8, 0), ["Conv", "Relu"]);
        assert_eq!(operations(DataType::Uint8, 7), ["Conv"]);
        assert_eq!(operations(DataType::Int8, -128), ["Conv", "Relu"]);
        assert_eq!(operations(DataType::Int8, 0), ["Conv"], "zero lies in the middle of signed numbers");
    }
}
