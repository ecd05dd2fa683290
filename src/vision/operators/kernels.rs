//! Kernels of the library that may not be used.
//!
//! The kernels for Intel's AMX (Sapphire Rapids and later) read both matrices in steps of 64 rows.
//! The library packs the second matrix in steps of four. Unless the rows are a multiple of 64,
//! such a kernel reads up to 960 bytes beyond the matrix: at random a segmentation fault.
//! tract-linalg 0.23.9, `avx512amx_mmm_i32_16x16` and `PackedI8K4`. The products are right, since the
//! first matrix is zero there. A processor with AMX has AVX-512 VNNI, too, whose kernels are used.

use std::sync::Once;

use tract_onnx::tract_core::tract_linalg::knobs::TRACT_CPU_ISA;

/// Instruction sets that the library is not to use, in the words of its knob.
#[cfg(target_arch = "x86_64")]
const LEFT_OUT: &str = "-amx-int8,-amx-bf16";
#[cfg(not(target_arch = "x86_64"))]
const LEFT_OUT: &str = "";

/// Must run before the library chooses its first kernel: it looks at the processor once. What the
/// environment says about instruction sets stays in force, but brings none of these back.
pub(super) fn leave_out() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let asked = TRACT_CPU_ISA.get().into_iter();
        let left_out = (!LEFT_OUT.is_empty()).then(|| LEFT_OUT.to_owned());
        let all: Vec<String> = asked.chain(left_out).collect();
        TRACT_CPU_ISA.set((!all.is_empty()).then(|| all.join(",")));
    });
}

#[cfg(test)]
mod tests {
    use tract_onnx::tract_core::tract_linalg::{
        MmmDispatch, WeightType,
        mmm::{MMMInputFormat, MatMatMul},
    };

    use super::*;

    /// Rows that a kernel reads at once, if its two matrices are not packed in the same steps.
    fn reads_beyond(kernel: &dyn MatMatMul) -> bool {
        let plain = |format: &dyn MMMInputFormat| matches!(format.precursor(), WeightType::Plain(_));
        kernel
            .packings()
            .iter()
            .filter(|(a, b)| plain(&**a) && plain(&**b))
            .any(|(a, b)| a.k_alignment() != b.k_alignment())
    }

    #[test]
    fn no_kernel_reads_beyond_its_matrices() {
        leave_out();
        for kernel in MmmDispatch::native().runnable() {
            assert!(!reads_beyond(&**kernel), "{} reads beyond its matrices", kernel.name());
        }
    }

    /// If the library mends its kernels, this module can go.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_kernels_left_out_are_those_that_read_beyond() {
        let declared = tract_onnx::tract_core::tract_linalg::mmm_routines::declared().map(|routine| (routine.make)());
        let beyond: Vec<String> =
            declared.filter(|kernel| reads_beyond(&**kernel)).map(|kernel| kernel.name().to_owned()).collect();
        assert!(!beyond.is_empty(), "the library mended its AMX kernels: leave none out");
        assert!(beyond.iter().all(|name| name.starts_with("avx512amx_")), "{beyond:?}");
    }
}
