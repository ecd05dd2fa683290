//! The nets and kernels with every matrix ending at a page that may not be read (`crates/fence`):
//! a kernel that reads beyond its matrix ends this program at once, on every run.
//!
//! A program of its own, because the allocator is the whole program's.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use facelatch::vision::{
    manifest::{Manifest, Role},
    model::Precision,
    net::NetFile,
};
use facelatch_fence::Fence;
use tract_onnx::tract_core::tract_linalg::MmmDispatch;

#[global_allocator]
static ALLOCATOR: Fence = Fence;

/// Says which one test a child process is to run, and what the library is told about the processor.
const KNOB: &str = "TRACT_CPU_ISA";

/// Sizes of P-Net's input: a small door's pyramid, and shapes whose last panel is not full.
const PYRAMID: [(usize, usize); 7] = [(120, 160), (85, 114), (61, 81), (43, 58), (31, 41), (22, 29), (16, 21)];

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// Every net of the manifest, at every size it is run at, in both arithmetics.
fn run_all_nets() {
    let manifest = Manifest::load(&models()).expect("the models are in the tree");
    for entry in manifest.nets() {
        let sizes = match entry.role {
            Role::Pnet => PYRAMID.to_vec(),
            Role::Rnet => vec![(24, 24)],
            Role::Onet => vec![(48, 48)],
            Role::Embedder => vec![(entry.input[0], entry.input[1])],
        };
        let bytes = manifest.read_net(entry).expect("its checksum is right");
        for precision in [Precision::W8, Precision::Int8] {
            let net = NetFile::read(&entry.name, &bytes, precision).expect("the file is sound");
            for (height, width) in &sizes {
                let plan = net.plan(*height, *width).expect("the net takes this size");
                let input = vec![100.0; 3 * height * width];
                let output = plan.run(&input).expect("the net runs");
                assert!(output.values().iter().all(|value| value.is_finite()), "{}", entry.name);
            }
        }
    }
}

/// The processor's instruction sets beyond the least, as the library names them.
fn instruction_sets() -> Vec<String> {
    let kernels = MmmDispatch::native().runnable();
    let needs = kernels.iter().flat_map(|kernel| kernel.isa().needs);
    let mut sets: Vec<String> = needs.map(|isa| isa.name().to_owned()).collect();
    sets.sort();
    sets.dedup();
    sets
}

/// Runs the nets in a process of its own, whose library believes this about the processor.
fn nets_run_with(knob: &str) {
    let itself = env::current_exe().expect("a test program has a path");
    let mut words: Vec<String> =
        env::var("FACELATCH_RUNNER").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    words.push(itself.display().to_string());
    let output = Command::new(&words[0])
        .args(&words[1..])
        .args(["--exact", "no_net_reads_beyond_its_matrices", "--nocapture"])
        .env(KNOB, knob)
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{KNOB}={knob}: {} {text}", output.status);
}

#[test]
fn no_net_reads_beyond_its_matrices() {
    run_all_nets();
}

/// One instruction set after the other is taken away, so that each kernel is chosen once.
#[test]
fn no_kernel_of_this_processor_reads_beyond() {
    if env::var(KNOB).is_ok() {
        return;
    }
    let mut without = String::new();
    for set in instruction_sets().into_iter().rev() {
        without = format!("{without}{}-{set}", if without.is_empty() { "" } else { "," });
        println!("{KNOB}={without}");
        nets_run_with(&without);
    }
}

/// The library's kernels for AMX read beyond the second matrix. They are left out even where the
/// processor has AMX; here it is said to have it, and these kernels would be an illegal instruction.
#[test]
#[cfg(target_arch = "x86_64")]
fn kernels_that_read_beyond_are_never_chosen() {
    if env::var(KNOB).is_ok() {
        return;
    }
    nets_run_with("+amx-int8,+amx-bf16");
}
