//! The one place that knows the network library: verified model file in, plan out.

use std::sync::Arc;

use tract_onnx::{
    pb::{ModelProto, tensor_shape_proto::dimension, type_proto},
    prelude::{
        DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, IntoTValue, TValue,
        Tensor, TractResult, TypedModel, TypedSimplePlan, tvec,
    },
};

use super::{model::Precision, operators, precision};

/// A model file in memory, in the arithmetic chosen; plans for different input sizes come from it.
#[derive(Clone)]
pub struct NetFile {
    name: String,
    model: Arc<ModelProto>,
}

/// A plan for one input size. Clones share it.
#[derive(Clone)]
pub struct Net {
    name: String,
    shape: [usize; 4],
    plan: Arc<TypedSimplePlan>,
}

/// Why a net cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("net \"{net}\": the file cannot be used: {problem}")]
    Load { net: String, problem: String },
    #[error("net \"{net}\": it cannot be run on an input of {height}×{width}: {problem}")]
    Plan { net: String, height: usize, width: usize, problem: String },
    #[error("net \"{net}\": the calculation failed: {problem}")]
    Run { net: String, problem: String },
}

impl NetFile {
    /// Reads an ONNX file's bytes and brings it into the arithmetic wanted.
    ///
    /// # Errors
    /// Not an ONNX file, or quantized in a way this program does not know.
    pub fn read(name: &str, mut bytes: &[u8], precision: Precision) -> Result<NetFile, NetError> {
        let load_error = |problem: String| NetError::Load { net: name.to_owned(), problem };
        let mut model =
            tract_onnx::onnx().proto_model_for_read(&mut bytes).map_err(|e| load_error(format!("{e:#}")))?;
        if precision == Precision::W8 {
            precision::to_float_arithmetic(&mut model).map_err(load_error)?;
        }
        Ok(NetFile { name: name.to_owned(), model: Arc::new(model) })
    }

    /// Whether the file holds quantized numbers. One that does not is calculated in 32-bit floating point only.
    pub fn is_quantized(&self) -> bool {
        let nodes = self.model.graph.iter().flat_map(|graph| &graph.node);
        nodes.into_iter().any(|node| node.op_type.contains("QuantizeLinear") || node.op_type.starts_with("QLinear"))
    }

    /// Optimises the net for one input of 3 × height × width. This takes from milliseconds (P-Net) to a second (the embedder on a small board).
    ///
    /// # Errors
    /// An operation the library does not know, or a size the net does not allow.
    pub fn plan(&self, height: usize, width: usize) -> Result<Net, NetError> {
        self.fits(height, width)?;
        plan(self.name.clone(), height, width, || parse(&self.model))
    }

    /// As [`NetFile::plan`], for a net that needs one plan only: the file's weights have gone when the plan's are made, and take their place in memory.
    ///
    /// # Errors
    /// As [`NetFile::plan`].
    pub fn into_plan(self, height: usize, width: usize) -> Result<Net, NetError> {
        self.fits(height, width)?;
        let NetFile { name, model } = self;
        plan(name, height, width, || parse(&Arc::unwrap_or_clone(model)))
    }
}

impl NetFile {
    /// A file may fix the size of its input. With another one the library does not always
    /// fail: it may look for sizes that fit until the memory is full.
    fn fits(&self, height: usize, width: usize) -> Result<(), NetError> {
        let fixed = fixed_input(&self.model);
        if [height, width].iter().zip(fixed).all(|(side, fixed)| fixed.is_none_or(|fixed| fixed == *side as i64)) {
            return Ok(());
        }
        let side = |side: Option<i64>| side.map_or("any".to_owned(), |side| side.to_string());
        let problem = format!("the file is for an input of {}×{}", side(fixed[0]), side(fixed[1]));
        Err(NetError::Plan { net: self.name.clone(), height, width, problem })
    }
}

/// Height and width of the input, where the file fixes them.
fn fixed_input(model: &ModelProto) -> [Option<i64>; 2] {
    let Some(graph) = &model.graph else { return [None; 2] };
    // Older files list their weights among the inputs.
    let is_weight = |name: &String| graph.initializer.iter().any(|weight| weight.name == *name);
    let input = graph.input.iter().find(|input| !is_weight(&input.name));
    let kind = input.and_then(|input| input.r#type.as_ref()?.value.as_ref());
    let Some(type_proto::Value::TensorType(tensor)) = kind else { return [None; 2] };
    let dims = tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    [2, 3].map(|axis: usize| match dims.get(axis)?.value {
        Some(dimension::Value::DimValue(side)) if side > 0 => Some(side),
        _ => None,
    })
}

fn plan(
    name: String,
    height: usize,
    width: usize,
    parse: impl FnOnce() -> TractResult<InferenceModel>,
) -> Result<Net, NetError> {
    let shape = [1, 3, height, width];
    match parse().and_then(|model| optimise(model, shape)).and_then(TypedModel::into_runnable) {
        Ok(plan) => Ok(Net { name, shape, plan }),
        Err(error) => Err(NetError::Plan { net: name, height, width, problem: format!("{error:#}") }),
    }
}

fn parse(model: &ModelProto) -> TractResult<InferenceModel> {
    let mut library = tract_onnx::onnx();
    operators::register(&mut library.op_register);
    library.model_for_proto_model(model)
}

fn optimise(model: InferenceModel, shape: [usize; 4]) -> TractResult<TypedModel> {
    let mut model = model.with_input_fact(0, InferenceFact::dt_shape(DatumType::F32, shape))?.into_typed()?;
    operators::optimise(&mut model)?;
    Ok(model)
}

impl Net {
    /// As the manifest calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Height and width of the input in pixels.
    pub fn input(&self) -> (usize, usize) {
        (self.shape[2], self.shape[3])
    }

    /// How many numbers it answers with; None if that is not known before it has run, or they are no 32-bit floating-point numbers.
    pub fn outputs(&self) -> Option<usize> {
        let fact = self.plan.model().output_fact(0).ok().filter(|fact| fact.datum_type == DatumType::F32)?;
        Some(fact.shape.as_concrete()?.iter().product())
    }

    /// Runs the net on one input, values in channel, row, column order.
    ///
    /// # Errors
    /// The input has the wrong size, or the library failed.
    pub fn run(&self, input: &[f32]) -> Result<Output, NetError> {
        let values = Tensor::from_shape(&self.shape, input)
            .and_then(|input| self.plan.run(tvec!(input.into_tvalue())))
            .map_err(|error| NetError::Run { net: self.name.clone(), problem: format!("{error:#}") })?;
        operators::clean_registers();
        let value = values.into_iter().next().filter(|value| value.datum_type() == DatumType::F32);
        let value = value.ok_or_else(|| NetError::Run {
            net: self.name.clone(),
            problem: "it has no output of 32-bit floating-point numbers".into(),
        })?;
        Ok(Output { value })
    }
}

/// What a net answered.
pub struct Output {
    value: TValue,
}

impl Output {
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// All numbers, in channel, row, column order.
    pub fn values(&self) -> &[f32] {
        self.value
            .try_as_plain_ram()
            .and_then(|plain| plain.as_slice::<f32>())
            .expect("Net::run lets only plain f32 outputs through")
    }
}
