//! What `eval` and `train` share: models, embeddings of a folder's pictures, progress,
//! and files.

use std::{
    fs,
    io::{IsTerminal, Write, stderr},
    path::{Path, PathBuf},
    sync::Mutex,
    time::Instant,
};

use ndarray::Array2;
use serde_json::{Value, json};

use super::{CommandError, arguments::ModelArguments};
use crate::{
    config::{Config, ModelsConfig, PrecisionChoice},
    error::ErrorKind,
    eval::collection::{self, Collection},
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

/// What the embedder makes of each picture's main face; None: there is none.
pub(super) fn embed(
    collection: &Collection,
    vision: &Vision,
    what: &str,
) -> Result<Vec<Option<Vec<f32>>>, CommandError> {
    let bar = Bar::new(what, collection.pictures.len());
    let embedded = collection::each(
        &collection.pictures,
        vision,
        |vision, picture, _| {
            let Some(face) = collection::main_face(vision, picture)? else { return Ok(None) };
            let Some((_, aligned)) = vision.look(picture, &face) else { return Ok(None) };
            vision.embedder().embed(&aligned).map(Some).map_err(|error| error.to_string())
        },
        |done| bar.show(done),
    )?;
    Ok(embedded.into_iter().map(|embedding| embedding.map(|e| e.values().to_vec())).collect())
}

/// The embeddings that there are, a row each, and whose they are.
pub(super) fn rows(collection: &Collection, embedded: &[Option<Vec<f32>>]) -> (Array2<f32>, Vec<usize>) {
    let found = || collection.pictures.iter().zip(embedded).filter_map(|(p, e)| Some((p.person, e.as_ref()?)));
    let person: Vec<usize> = found().map(|(person, _)| person).collect();
    let values: Vec<f32> = found().flat_map(|(_, values)| values.iter().copied()).collect();
    let rows = Array2::from_shape_vec((person.len(), values.len() / person.len().max(1)), values)
        .expect("all embeddings of one embedder have its dimension");
    (rows, person)
}

/// The pictures without a face.
pub(super) fn undetected(collection: &Collection, embedded: &[Option<Vec<f32>>]) -> Vec<String> {
    let without = collection.pictures.iter().zip(embedded).filter(|(_, embedding)| embedding.is_none());
    without.map(|(picture, _)| picture.path.display().to_string()).collect()
}

pub(super) fn rate_name(fmr: f64) -> String {
    format!("{fmr:e}")
}

/// Rounded from the narrow number, so that 0.344 does not become 0.34400001168251038.
pub(super) fn narrow(value: f32) -> Value {
    json!(value.to_string().parse::<f64>().unwrap_or(f64::NAN))
}

/// Writes what was drawn into a folder, which it makes.
pub(super) fn write_pictures<const N: usize>(
    folder: &Path,
    pictures: [(&str, Result<String, String>); N],
) -> Result<(), CommandError> {
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| CommandError::File { path, source }
    };
    fs::create_dir_all(folder).map_err(file_error(folder))?;
    for (name, picture) in pictures {
        let path = folder.join(name);
        let picture = picture.map_err(|problem| CommandError::Answer { problem, kind: ErrorKind::Internal })?;
        fs::write(&path, picture).map_err(file_error(&path))?;
    }
    Ok(())
}
