//! What several test modules need.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use facelatch::vision::{Vision, model::Precision, mtcnn::MtcnnSettings};
use image::RgbImage;

/// The checkout.
pub fn root() -> PathBuf {
    // Where a user's files are for the user's group to write, a configuration that a test writes would be refused.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What starts programs of the tests' own processor, where that is not the machine's (cross/build): an emulator and its options.
fn emulator() -> Option<String> {
    env::var("FACELATCH_RUNNER").ok()
}

/// A program that was built with the tests.
pub fn command(program: impl AsRef<Path>) -> Command {
    let emulator = emulator().unwrap_or_default();
    let mut words = emulator.split_whitespace();
    let Some(first) = words.next() else { return Command::new(program.as_ref()) };
    let mut command = Command::new(first);
    command.args(words).arg(program.as_ref());
    command
}

/// Words before a command that permissions then bind even if root starts it; None, and a line that says so, where that cannot be.
pub fn bound_by_permissions() -> Option<&'static [&'static str]> {
    let words: &[&str] = match rustix::process::geteuid().is_root() {
        true => &["setpriv", "--bounding-set=-dac_override,-dac_read_search"],
        false => &["env"],
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o000)).unwrap();
    let mut cat = Command::new("cat");
    let read = wrapped(words, cat.arg(file.path())).output();
    if read.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("Permission denied")) {
        return Some(words);
    }
    skipped("permissions: this user cannot be made to obey them (setpriv)");
    None
}

/// A command behind words that start it, with its environment.
pub fn wrapped(words: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(words[0]);
    wrapped.args(&words[1..]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    wrapped
}

/// Says what is not tested; not by `eprintln`, which the test runner keeps to itself.
pub fn skipped(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {why}").expect("there is somebody to tell");
}

/// Whether this is an emulated processor; then says so of a test that is too slow there.
pub fn too_slow_here(what: &str) -> bool {
    let emulated = emulator().is_some();
    if emulated {
        skipped(&format!("{what}: not on an emulated processor, which takes some fifty times as long"));
    }
    emulated
}

/// A folder of test data that lies beside the checkout on some machines; None, and a line that says so, elsewhere.
pub fn beside_checkout(what: &str) -> Option<PathBuf> {
    let path = root().join("../shared").join(what);
    if path.exists() {
        return Some(path);
    }
    skipped(&format!("{what} is not beside the checkout"));
    None
}

pub fn picture(path: &Path) -> RgbImage {
    image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).to_rgb8()
}

pub fn portrait(name: &str) -> RgbImage {
    picture(&root().join("tests/data").join(name))
}

/// The shipped nets.
pub fn vision(precision: Precision, min_face: f32) -> Vision {
    let settings = MtcnnSettings { min_face, thresholds: [0.6, 0.7, 0.7] };
    Vision::load(&root().join("models"), "dlib", precision, settings).expect("the committed models load")
}
