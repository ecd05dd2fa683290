//! Products of matrices by the library's kernels, for operators that prepare the second matrix themselves.

use tract_onnx::{
    prelude::{Datum, DatumType, DatumTypeExt, TVec, Tensor, ToDim, TractResult, tvec},
    tract_core::{
        ops::matmul::{
            ModePicker,
            optimized::{AddMatMulGeometry, MapOutputAxisToInput, MatMulOperand, OptMatMul, ProtoFusedSpec},
        },
        tract_linalg::{
            BinOp, MmmDispatch,
            mmm::{MMMInputFormat, MatMatMul, OutputStoreSpec, PackedMatrixStorage, Query, Suitable},
        },
    },
};

/// On a PC whose processor has AVX-512 but adds up 512 bits no faster than twice 256 (AMD's Zen 4) the library takes the first kernel. It loads nine times for eight
/// multiplications, though, the second 17 times for 16 of twice the width; so that one is faster there too: it takes 3/4 of the time for the embedder (docs/performance.md).
const WIDER: (&str, &str) = ("avx512vnni_mmm_i32_8x8", "avx512vnni_mmm_i32_16x16");

/// So many products of an m × k matrix of weights and a k × n one, with the kernel that the library chooses for them.
pub(super) struct Products {
    count: usize,
    m: usize,
    k: usize,
    n: usize,
    kernel: Box<dyn MatMatMul>,
    packing: usize,
}

impl Products {
    /// In floating point, or in signed 8-bit numbers and 32-bit sums. None if there is no kernel.
    pub fn new(sums: DatumType, count: usize, [m, k, n]: [usize; 3]) -> Option<Products> {
        let query = Query::plain(sums, Some(m), Some(k), Some(n));
        let query = Query { allow_extractor: false, ..query };
        let library = MmmDispatch::native();
        let (kernel, packing, _) = library.pick(&query)?;
        let wider =
            |(wide, ..): &Suitable| [(kernel.name(), wide.name())] == [WIDER] && m >= wide.mr() && n >= wide.nr();
        let wider = library.suitable(&query).into_iter().find(wider).map(|(kernel, packing, _)| (kernel, packing));
        let (kernel, packing) = wider.unwrap_or((kernel, packing));
        Some(Products { count, m, k, n, kernel, packing })
    }

    /// How the second matrices have to be laid out.
    pub fn format(&self) -> &dyn MMMInputFormat {
        &*self.kernel.packings()[self.packing].1
    }

    /// The weights of each product, output by output, as the kernel wants them.
    pub fn weights<'a, T: Datum + Copy>(&self, matrices: impl IntoIterator<Item = &'a [T]>) -> TractResult<Tensor> {
        let pack = |matrix: &[T]| {
            let matrix = Tensor::from_shape(&[self.m, self.k], matrix)?;
            self.kernel.packings()[self.packing].0.prepare_one(&matrix, 1, 0)
        };
        let packed = matrices.into_iter().map(pack).collect::<TractResult<TVec<_>>>()?;
        Ok(PackedMatrixStorage::new_batched(&[self.count], packed).into_tensor(T::datum_type()))
    }

    /// The library's operator. Its inputs are the second matrices, the weights, and what the steps after the multiplication refer to, from 2 on; its
    /// output has the shape count, m, n.
    pub fn operator(self, steps: Vec<ProtoFusedSpec>, result: DatumType) -> TractResult<OptMatMul> {
        let each = || MapOutputAxisToInput(tvec!((0, 0)));
        let multiply = ProtoFusedSpec::AddMatMul {
            geo: AddMatMulGeometry { k: self.k.to_dim(), c_to_a_axis_mapping: each(), c_to_b_axis_mapping: each() },
            a: MatMulOperand::Input(1),
            b: MatMulOperand::Input(0),
            packings: vec![(self.packing, None)],
        };
        let (mr, nr) = (self.kernel.mr(), self.kernel.nr());
        let store = OutputStoreSpec::View { m_axis: Some(1), n_axis: Some(2), mr, nr };
        let steps = [vec![multiply], steps, vec![ProtoFusedSpec::Store(vec![store])]].concat();
        let result = result.fact([self.count, self.m, self.n]);
        let whole = self.packing == 0;
        OptMatMul::new(vec![self.kernel], ModePicker::Single, result, Some(1), Some(2), steps, whole)
    }
}

/// One number for each row, added to it.
pub(super) fn add_to_rows(input: usize) -> ProtoFusedSpec {
    ProtoFusedSpec::BinPerRow(input, BinOp::Add, MapOutputAxisToInput(tvec!()))
}
