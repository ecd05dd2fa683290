//! Products of matrices by the library's kernels, for operators that prepare the second matrix themselves.

use tract_onnx::{
    prelude::{Datum, DatumType, DatumTypeExt, TVec, Tensor, ToDim, TractResult, tvec},
    tract_core::{
        dyn_clone,
        ops::matmul::{
            ModePicker,
            optimized::{AddMatMulGeometry, MapOutputAxisToInput, MatMulOperand, OptMatMul, ProtoFusedSpec},
        },
        tract_linalg::{
            BinOp, MmmDispatch,
            mmm::{
                EagerPackedInput, MMMInputFormat, MMMInputValue, MatMatMul, OutputStoreSpec, PackedExoticFact,
                PackedMatrixStorage, Query, Suitable,
            },
            pack::PackedI8K4,
        },
    },
};

use super::kernels;

/// On a PC whose processor has AVX-512 but adds up 512 bits no faster than twice 256 (AMD's Zen 4) the library takes the first kernel. It loads nine times for eight
/// multiplications, though, the second 17 times for 16 of twice the width; so that one is faster there too: it takes 3/4 of the time for the embedder (docs/performance.md).
/// With as many columns as fill more than half of it, too: two of the first would calculate as many.
const WIDER: (&str, &str) = ("avx512vnni_mmm_i32_8x8", "avx512vnni_mmm_i32_16x16");
/// On ARM the library takes the first kernel. The second loads 5 vectors for 24 multiplications,
/// not 4 for 16, and has fewer tiles. Its rows are 12, which pixels fill and outputs do not.
const HIGHER: (&str, &str) = ("arm64simd_mmm_f32_8x8_gen", "arm64simd_mmm_f32_12x8_gen");

/// So many products of an m × k matrix of weights and a k × n one, with the kernel that the library chooses for them.
pub(super) struct Products {
    count: usize,
    m: usize,
    k: usize,
    n: usize,
    kernel: Box<dyn MatMatMul>,
    packing: usize,
    /// For the kernel the second matrices come first, transposed.
    turned: bool,
}

impl Products {
    /// In floating point, or in signed 8-bit numbers and 32-bit sums. None if there is no kernel.
    pub fn new(sums: DatumType, count: usize, [m, k, n]: [usize; 3]) -> Option<Products> {
        let query = Query::plain(sums, Some(m), Some(k), Some(n));
        let query = Query { allow_extractor: false, ..query };
        kernels::leave_out();
        let library = MmmDispatch::native();
        let (mut kernel, mut packing, _) = library.pick(&query)?;
        if kernel.name() == WIDER.0 {
            let wider = |(wide, ..): &Suitable| wide.name() == WIDER.1 && m >= wide.mr() && 2 * n > wide.nr();
            if let Some((wide, of_wide, _)) = library.suitable(&query).into_iter().find(wider) {
                (kernel, packing) = (wide, of_wide);
            }
        }
        Some(Products { count, m, k, n, kernel, packing, turned: false })
    }

    /// One product in floating point whose columns are the kernel's rows: ARM's kernels store those
    /// four at a time, in the order in which pixels lie.
    pub fn turned([m, k, n]: [usize; 3]) -> Option<Products> {
        let products = Products::new(DatumType::F32, 1, [n, k, m])?;
        let Products { mut kernel, mut packing, .. } = products;
        if kernel.name() == HIGHER.0 {
            let query = Query::plain(DatumType::F32, Some(n), Some(k), Some(m));
            let suitable = MmmDispatch::native().suitable(&Query { allow_extractor: false, ..query });
            if let Some((higher, of_higher, _)) = suitable.into_iter().find(|(it, ..)| it.name() == HIGHER.1) {
                (kernel, packing) = (higher, of_higher);
            }
        }
        Some(Products { count: 1, m, k, n, kernel, packing, turned: true })
    }

    /// How the second matrices have to be laid out.
    pub fn format(&self) -> &dyn MMMInputFormat {
        let (first, second) = &self.kernel.packings()[self.packing];
        if self.turned { &**first } else { &**second }
    }

    /// Whether the kernel has a dot product of four numbers, and wants four rows interleaved.
    pub fn interleaves_four(&self) -> bool {
        self.format().downcast_ref::<PackedI8K4>().is_some()
    }

    /// The same for matrices of k rows.
    pub fn with_k(self, k: usize) -> Products {
        Products { k, ..self }
    }

    pub fn k(&self) -> usize {
        self.k
    }

    /// How the weights have to be laid out.
    pub fn format_of_weights(&self) -> &dyn MMMInputFormat {
        let (first, second) = &self.kernel.packings()[self.packing];
        if self.turned { &**second } else { &**first }
    }

    /// The weights of each product, output by output, as the kernel wants them.
    pub fn weights<'a, T: Datum + Copy>(&self, matrices: impl IntoIterator<Item = &'a [T]>) -> TractResult<Tensor> {
        let format = self.format_of_weights();
        let pack = |matrix: &[T]| match format.downcast_ref::<PackedI8K4>() {
            Some(format) => pack_rows(matrix, self.k, format),
            None => format.prepare_one(&Tensor::from_shape(&[self.m, self.k], matrix)?, 1, 0),
        };
        let packed = matrices.into_iter().map(pack).collect::<TractResult<TVec<_>>>()?;
        Ok(PackedMatrixStorage::new_batched(&[self.count], packed).into_tensor(T::datum_type()))
    }

    /// The weights of each product, laid out already: panel after panel, the same number of numbers in each.
    pub fn packed_weights(&self, matrices: Vec<Tensor>) -> TractResult<Tensor> {
        let panels = self.m.div_ceil(self.kernel.mr());
        let data_type = matrices.first().map_or(DatumType::F32, Tensor::datum_type);
        let value = |matrix: Tensor| {
            let panel = matrix.len() / panels;
            packed(dyn_clone::clone_box(self.format_of_weights()), [self.m, self.k], matrix, panel)
        };
        let matrices = matrices.into_iter().map(value).collect::<TractResult<TVec<_>>>()?;
        Ok(PackedMatrixStorage::new_batched(&[self.count], matrices).into_tensor(data_type))
    }

    /// One number for each row of the weights, added to it; the number of the operator's input.
    pub fn add_to_rows(&self, input: usize) -> ProtoFusedSpec {
        let add = if self.turned { ProtoFusedSpec::BinPerCol } else { ProtoFusedSpec::BinPerRow };
        add(input, BinOp::Add, MapOutputAxisToInput(tvec!()))
    }

    /// The library's operator. Its inputs are the second matrices, the weights, and what the steps after the multiplication refer to, from 2 on; its
    /// output has the shape count, m, n.
    pub fn operator(self, steps: Vec<ProtoFusedSpec>, result: DatumType) -> TractResult<OptMatMul> {
        let each = || MapOutputAxisToInput(tvec!((0, 0)));
        let (of_weights, of_second) = (MatMulOperand::Input(1), MatMulOperand::Input(0));
        let (a, b) = if self.turned { (of_second, of_weights) } else { (of_weights, of_second) };
        let (rows, columns) = if self.turned { (Some(2), Some(1)) } else { (Some(1), Some(2)) };
        let multiply = ProtoFusedSpec::AddMatMul {
            geo: AddMatMulGeometry { k: self.k.to_dim(), c_to_a_axis_mapping: each(), c_to_b_axis_mapping: each() },
            a,
            b,
            packings: vec![(self.packing, None)],
        };
        let (mr, nr) = (self.kernel.mr(), self.kernel.nr());
        let store = OutputStoreSpec::View { m_axis: rows, n_axis: columns, mr, nr };
        let steps = [vec![multiply], steps, vec![ProtoFusedSpec::Store(vec![store])]].concat();
        let result = result.fact([self.count, self.m, self.n]);
        let whole = self.packing == 0;
        OptMatMul::new(vec![self.kernel], ModePicker::Single, result, rows, columns, steps, whole)
    }
}

/// As the library does it (which goes number by number, a sixth of the instructions of loading in integer arithmetic): of each row four numbers at
/// a time, beside those of the other rows of the panel.
fn pack_rows<T: Datum + Copy>(matrix: &[T], k: usize, format: &PackedI8K4) -> TractResult<Box<dyn MMMInputValue>> {
    let (rows, panel) = (format.r(), format.single_panel_len(k));
    let mn = matrix.len() / k;
    let mut numbers = Tensor::zero_aligned_dt(T::datum_type(), &[mn.div_ceil(rows) * panel], format.alignment())?;
    let mut plain = numbers.try_as_plain_ram_mut()?;
    for (of_panel, panel) in matrix.chunks(rows * k).zip(plain.as_slice_mut::<T>()?.chunks_exact_mut(panel)) {
        for (index, row) in of_panel.chunks_exact(k).enumerate() {
            let (fours, rest) = row.as_chunks::<4>();
            let mut places = panel.as_chunks_mut::<4>().0.iter_mut().skip(index).step_by(rows);
            fours.iter().zip(&mut places).for_each(|(four, place)| *place = *four);
            if let (false, Some(place)) = (rest.is_empty(), places.next()) {
                place[..rest.len()].copy_from_slice(rest);
            }
        }
    }
    packed(Box::new(format.clone()), [mn, k], numbers, panel)
}

/// A matrix that is laid out already, in panels of so many numbers.
pub(super) fn packed(
    format: Box<dyn MMMInputFormat>,
    [mn, k]: [usize; 2],
    numbers: Tensor,
    panel: usize,
) -> TractResult<Box<dyn MMMInputValue>> {
    let fact = PackedExoticFact { format, mn: mn.to_dim(), k };
    let panel_bytes = panel * numbers.datum_type().size_of();
    Ok(Box::new(EagerPackedInput { fact, packed: numbers.into_blob()?.into(), panel_bytes, mn }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_are_packed_as_the_library_packs_them(m in 1usize..40, k in 1usize..40, width: u8, seed: u8) {
            let matrix: Vec<i8> = (0..m * k).map(|index| (index * 37 + usize::from(seed)) as u8 as i8).collect();
            let format = PackedI8K4::new([4, 8, 16][usize::from(width % 3)]);
            let ours = pack_rows(&matrix, k, &format).unwrap();
            let theirs = format.prepare_one(&Tensor::from_shape(&[m, k], &matrix).unwrap(), 1, 0).unwrap();
            let [ours, theirs] = [&ours, &theirs].map(|packed| packed.downcast_ref::<EagerPackedInput>().unwrap());
            prop_assert_eq!(ours, theirs);
        }
    }
}
