//! Products of matrices by the library's kernels, for operators that prepare the second matrix themselves.

use tract_onnx::{
    prelude::{DatumType, DatumTypeExt, TVec, Tensor, ToDim, TractResult, tvec},
    tract_core::{
        ops::matmul::{
            ModePicker,
            optimized::{AddMatMulGeometry, MapOutputAxisToInput, MatMulOperand, OptMatMul, ProtoFusedSpec},
        },
        tract_linalg::{
            BinOp, MmmDispatch,
            mmm::{MatMatMul, OutputStoreSpec, PackedMatrixStorage, Query},
            pack::PackedFormat,
        },
    },
};

/// So many products of an m × k matrix of weights and a k × n one, in floating point, with the kernel that the library chooses for them.
pub(super) struct Products {
    count: usize,
    m: usize,
    k: usize,
    n: usize,
    kernel: Box<dyn MatMatMul>,
    packing: usize,
    format: PackedFormat,
}

impl Products {
    /// None if the kernel wants its matrices in a way that is not known here.
    pub fn new(count: usize, [m, k, n]: [usize; 3]) -> Option<Products> {
        let number = DatumType::F32;
        let query = Query::plain(number, Some(m), Some(k), Some(n));
        let query = Query { allow_extractor: false, ..query };
        let (kernel, packing, _) = MmmDispatch::native().pick(&query)?;
        let format = kernel.packings()[packing].1.downcast_ref::<PackedFormat>()?.clone();
        (format.dt == number).then_some(Products { count, m, k, n, kernel, packing, format })
    }

    /// How the second matrices have to be laid out.
    pub fn format(&self) -> &PackedFormat {
        &self.format
    }

    /// The weights of each product, output by output, as the kernel wants them.
    pub fn weights<'a>(&self, matrices: impl IntoIterator<Item = &'a [f32]>) -> TractResult<Tensor> {
        let pack = |matrix: &[f32]| {
            let matrix = Tensor::from_shape(&[self.m, self.k], matrix)?;
            self.kernel.packings()[self.packing].0.prepare_one(&matrix, 1, 0)
        };
        let packed = matrices.into_iter().map(pack).collect::<TractResult<TVec<_>>>()?;
        Ok(PackedMatrixStorage::new_batched(&[self.count], packed).into_tensor(DatumType::F32))
    }

    /// The library's operator. Its inputs are the second matrices, the weights and, if told, a bias for each row; its output has the
    /// shape count, m, n.
    pub fn operator(self, with_bias: bool) -> TractResult<OptMatMul> {
        let each = || MapOutputAxisToInput(tvec!((0, 0)));
        let multiply = ProtoFusedSpec::AddMatMul {
            geo: AddMatMulGeometry { k: self.k.to_dim(), c_to_a_axis_mapping: each(), c_to_b_axis_mapping: each() },
            a: MatMulOperand::Input(1),
            b: MatMulOperand::Input(0),
            packings: vec![(self.packing, None)],
        };
        let (mr, nr) = (self.kernel.mr(), self.kernel.nr());
        let store = OutputStoreSpec::View { m_axis: Some(1), n_axis: Some(2), mr, nr };
        let mut steps = vec![multiply];
        if with_bias {
            steps.push(ProtoFusedSpec::BinPerRow(2, BinOp::Add, MapOutputAxisToInput(tvec!())));
        }
        steps.push(ProtoFusedSpec::Store(vec![store]));
        let result = DatumType::F32.fact([self.count, self.m, self.n]);
        OptMatMul::new(vec![self.kernel], ModePicker::Single, result, Some(1), Some(2), steps, false)
    }
}
