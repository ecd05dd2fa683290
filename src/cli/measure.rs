//! What `eval` and `train` share: which models, and how far they are.

use std::{
    io::{IsTerminal, Write, stderr},
    path::{Path, PathBuf},
    sync::Mutex,
    time::Instant,
};

use super::{CommandError, arguments::ModelArguments};
use crate::{
    config::{Config, ModelsConfig, PrecisionChoice},
    service::StartError,
    vision::{Vision, manifest::Manifest, model::Precision, mtcnn::MtcnnSettings},
};

/// Enrolled and seen pictures of one comparison, for the tables of what fusing brings.
pub(super) const FUSIONS: [(usize, usize); 4] = [(1, 1), (1, 3), (3, 1), (3, 3)];

/// The models to measure with.
pub(super) struct Chosen {
    pub dir: PathBuf,
    pub embedder: String,
    pub precision: Precision,
    pub mirror: bool,
}

impl Chosen {
    /// What the command line says; for the rest, with `--models` the defaults, else the
    /// configuration file. `auto` is w8, or the only precision of an embedder without it.
    pub fn new(arguments: &ModelArguments, config: &Path) -> Result<Chosen, CommandError> {
        let configured = match &arguments.models {
            Some(dir) => ModelsConfig { dir: dir.clone(), ..ModelsConfig::default() },
            None => Config::load_to_ask(config)?.models,
        };
        let embedder = arguments.embedder.clone().unwrap_or(configured.embedder);
        let precision = match (arguments.precision.as_deref(), configured.precision) {
            (Some("int8"), _) | (None, PrecisionChoice::Int8) => Precision::Int8,
            (Some(_), _) | (None, PrecisionChoice::W8) => Precision::W8,
            (None, PrecisionChoice::Auto) => usual_precision(&configured.dir, &embedder)?,
        };
        Ok(Chosen { embedder, mirror: arguments.mirror || configured.mirror, dir: configured.dir, precision })
    }

    /// Detector and embedder in that precision, without mirror images.
    pub fn load(&self, precision: Precision) -> Result<Vision, CommandError> {
        // The smallest face is set for each picture.
        let settings =
            MtcnnSettings { min_face: 40.0, thresholds: crate::config::DetectionConfig::default().thresholds };
        Vision::load(&self.dir, &self.embedder, precision, settings)
            .map_err(|error| CommandError::Start(StartError::Vision(error)))
    }
}

fn usual_precision(models: &Path, embedder: &str) -> Result<Precision, CommandError> {
    let manifest = Manifest::load(models).map_err(StartError::from)?;
    let offered = &manifest.embedder(embedder).map_err(StartError::from)?.precisions;
    Ok(offered.iter().copied().find(|precision| *precision == Precision::W8).unwrap_or(offered[0]))
}

/// A bar on a terminal's standard error output; elsewhere a line for each tenth.
pub(super) struct Bar {
    what: String,
    total: usize,
    started: Instant,
    /// Tenths (or, on a terminal, hundredths) shown.
    shown: Mutex<Option<usize>>,
    terminal: bool,
}

impl Bar {
    pub fn new(what: impl Into<String>, total: usize) -> Bar {
        let terminal = stderr().is_terminal();
        Bar { what: what.into(), total, started: Instant::now(), shown: Mutex::new(None), terminal }
    }

    pub fn show(&self, done: usize) {
        let parts = if self.terminal { 100 } else { 10 };
        let part = done * parts / self.total.max(1);
        let mut shown = self.shown.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if shown.is_some_and(|shown| shown >= part) {
            return;
        }
        *shown = Some(part);
        let elapsed = self.started.elapsed().as_secs_f32();
        let left = elapsed / done.max(1) as f32 * (self.total - done.min(self.total)) as f32;
        let (what, total) = (&self.what, self.total);
        let line = if self.terminal {
            let full = part * 30 / parts;
            let end = if done >= total { "\n" } else { "" };
            format!(
                "\r{what} [{}{}] {done} of {total}, {left:.0} s left {end}",
                "#".repeat(full),
                ".".repeat(30 - full)
            )
        } else {
            format!("{what}: {done} of {total}, {left:.0} s left\n")
        };
        // A closed standard error output is no reason to stop.
        let _ = stderr().write_all(line.as_bytes());
    }
}
