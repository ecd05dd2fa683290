//! The model manifest: which files there are, what they are for, and how a face has to be prepared for them.
//!
//! It is `models.toml`, which is shipped, and every other `*.toml` of the same folder: what a user trains, converts or brings along
//! lies beside it in a file of its own, which no upgrade overwrites.
//!
//! A file is read once, its checksum compared with the manifest's, and what was compared is what is loaded.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    geometry::Point,
    model::{ModelId, Precision},
};
use crate::error::ErrorKind;

/// The manifest and the folder it was read from.
#[derive(Clone, Debug)]
pub struct Manifest {
    dir: PathBuf,
    nets: Vec<NetEntry>,
}

/// What a net is for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Pnet,
    Rnet,
    Onet,
    Embedder,
}

/// One `[[net]]` of the manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetEntry {
    pub name: String,
    pub role: Role,
    pub file: String,
    pub checksum: Checksum,
    /// The forms this net may be run in.
    pub precisions: Vec<Precision>,
    /// Height and width in pixels; for P-Net the smallest.
    pub input: [usize; 2],
    pub license: String,
    pub origin: String,
    /// Embedders only: numbers in an embedding.
    pub dimension: Option<usize>,
    /// Embedders only: a dense layer kept in a file of its own because it can be retrained.
    pub last_layer: Option<LayerEntry>,
    /// Embedders only: what tells from the net's features that a part of the face is hidden, f32 [2, features + 1]:
    /// the mouth, the eyes. No part of the model: embeddings stay comparable whatever it is.
    pub hidden: Option<LayerEntry>,
    /// Embedders only: what a pixel becomes before the net sees it.
    #[serde(default)]
    pub pixels: PixelEntry,
    /// Embedders only: how the face is cut out.
    pub alignment: Option<AlignmentEntry>,
    /// Embedders only: the groups of people on whom distances were measured. The first is the
    /// largest: means of pictures were measured on it, and beyond its table it is continued.
    #[serde(default)]
    pub populations: Vec<Population>,
    /// Embedders only: the first population's table. A manifest from before there were
    /// populations has it alone, which is not enough to promise a rate.
    #[serde(default)]
    pub thresholds: Vec<Threshold>,
    /// Embedders only: the same with mirror images averaged in.
    #[serde(default)]
    pub mirror_thresholds: Vec<Threshold>,
    /// Embedders only, as all that follow (see `scale.rs`): the largest distance of a picture from
    /// the person's other pictures.
    pub max_spread: Option<f32>,
    /// How much farther than the nearest person the next one has to be.
    pub margin: Option<f32>,
    /// The largest distance of two looks at one face in a track.
    pub same_face: Option<f32>,
    /// The largest distance of pictures of one moment.
    pub one_moment: Option<f32>,
    /// The file that holds this entry, for messages.
    #[serde(skip)]
    pub listed_in: PathBuf,
    /// See [`NetEntry::mirroring`].
    #[serde(skip)]
    mirrored: bool,
}

/// A dense layer: a `.npy` file, f32, [dimension, features].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerEntry {
    pub file: String,
    pub checksum: Checksum,
}

/// What a file's bytes have to come to, written as `blake3:` or `sha256:` and hexadecimal digits.
///
/// The program writes BLAKE3 (Aumasson et al. 2020), because a Raspberry Pi 4 has no instructions for SHA-256, which takes it seven times as long: more than to load the nets.
/// SHA-256 is for manifests written by hand: every system has a command for it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Checksum {
    function: HashFunction,
    /// Lower-case hexadecimal.
    digest: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HashFunction {
    Blake3,
    Sha256,
}

impl Checksum {
    /// That of these bytes, as the program writes it.
    pub fn of(bytes: &[u8]) -> Checksum {
        HashFunction::Blake3.of(bytes)
    }
}

impl HashFunction {
    fn of(self, bytes: &[u8]) -> Checksum {
        let digest = match self {
            HashFunction::Blake3 => blake3::hash(bytes).to_hex().to_string(),
            HashFunction::Sha256 => Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        Checksum { function: self, digest }
    }
}

impl TryFrom<String> for Checksum {
    type Error = String;

    fn try_from(text: String) -> Result<Checksum, String> {
        let parts = match text.split_once(':') {
            Some(("blake3", digest)) => Some((HashFunction::Blake3, digest)),
            Some(("sha256", digest)) => Some((HashFunction::Sha256, digest)),
            _ => None,
        };
        match parts.filter(|(_, digest)| !digest.is_empty() && digest.chars().all(|c| c.is_ascii_hexdigit())) {
            Some((function, digest)) => Ok(Checksum { function, digest: digest.to_ascii_lowercase() }),
            None => Err(format!(
                "checksum \"{text}\": give \"sha256:\" and what `sha256sum` prints, or \"blake3:\" and what `b3sum` prints"
            )),
        }
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let function = match self.function {
            HashFunction::Blake3 => "blake3",
            HashFunction::Sha256 => "sha256",
        };
        write!(f, "{function}:{}", self.digest)
    }
}

/// `(pixel − mean) · scale`, in the given channel order.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PixelEntry {
    pub order: ChannelOrder,
    pub mean: f32,
    pub scale: f32,
}

impl Default for PixelEntry {
    fn default() -> Self {
        PixelEntry { order: ChannelOrder::Rgb, mean: 0.0, scale: 1.0 }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    Rgb,
    Bgr,
}

/// How a face is cut out for an embedder.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged, deny_unknown_fields)]
pub enum AlignmentEntry {
    /// The five landmarks are brought onto `points` (pixels of the net's input) by the similarity transform with the least weighted squares.
    FivePoints { points: [[f32; 2]; 5], weights: [f32; 5] },
    /// The detector's box, widened by `box_margin` of its sides (half of it on each edge), is scaled to the input. It is made square
    /// around its centre first, unless the net was trained on boxes stretched to its input (facenet-pytorch does that).
    Box {
        box_margin: f32,
        #[serde(default = "squared")]
        square: bool,
    },
}

fn squared() -> bool {
    true
}

/// People on whom distances were measured: how near two of them come, and how often.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Population {
    /// As log and page name it: who these people are.
    pub name: String,
    /// Where the pictures are from.
    pub source: String,
    pub people: usize,
    /// Comparisons of two people, one picture against one.
    pub comparisons: usize,
    /// Whether no limit may be looser than measured here. It is not so for young children: a
    /// limit that tells them apart would keep everybody out.
    #[serde(default = "yes")]
    pub sets_limit: bool,
    /// Down to the smallest rate for which there is evidence; maybe there is none.
    #[serde(default)]
    pub thresholds: Vec<Threshold>,
    /// The same with mirror images averaged in.
    #[serde(default)]
    pub mirror_thresholds: Vec<Threshold>,
}

fn yes() -> bool {
    true
}

impl Population {
    /// Where its evidence ends, if a rate is smaller than that.
    fn no_evidence_of(&self, fmr: f64) -> Option<EvidenceEnd> {
        // Ten pairs of people need ten comparisons at least.
        let enough = |point: &&Threshold| point.fmr * self.comparisons as f64 >= 10.0;
        let rate = self.thresholds.iter().rev().find(enough).or(self.thresholds.first())?.fmr;
        (fmr < rate).then(|| EvidenceEnd { of: self.name.clone(), rate })
    }

    /// The largest distance that is known to keep the rate. Where evidence ends the last measured
    /// distance stays, because a smaller rate needs at least that. None: nothing is known.
    fn limit(&self, fmr: f64) -> Option<f32> {
        let last = self.thresholds.last()?;
        if fmr <= last.fmr {
            return Some(last.distance);
        }
        Some(interpolated(&self.thresholds, fmr)?.0)
    }

    /// At most this share of comparisons is nearer; None: nothing is known.
    fn rate_at(&self, distance: f32) -> Option<f64> {
        let last = self.thresholds.last()?;
        if distance <= last.distance {
            return Some(last.fmr);
        }
        rate_in(&self.thresholds, distance)
    }
}

/// As the manifest of its net holds it.
impl fmt::Display for Population {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &str| toml::Value::String(value.to_owned());
        writeln!(f, "[[net.populations]]")?;
        writeln!(f, "name = {}\nsource = {}", text(&self.name), text(&self.source))?;
        writeln!(f, "people = {}\ncomparisons = {}", self.people, self.comparisons)?;
        if !self.sets_limit {
            writeln!(f, "sets_limit = false")?;
        }
        for (name, table) in [("thresholds", &self.thresholds), ("mirror_thresholds", &self.mirror_thresholds)] {
            match &table[..] {
                [] => writeln!(f, "{name} = []")?,
                rows => {
                    let rows: String = rows.iter().map(|row| format!("    {row},\n")).collect();
                    writeln!(f, "{name} = [\n{rows}]")?;
                }
            }
        }
        Ok(())
    }
}

/// As the manifest holds it.
impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ fmr = {:e}, distance = {:?}", self.fmr, self.distance)?;
        if self.shrink != whole() {
            write!(f, ", shrink = {:?}", self.shrink)?;
        }
        if let Some([low, high]) = self.interval {
            write!(f, ", interval = [{low:?}, {high:?}]")?;
        }
        write!(f, " }}")
    }
}

/// Distance and shrink at a rate within a table, linear in the logarithm of the rate.
fn interpolated(table: &[Threshold], fmr: f64) -> Option<(f32, f32)> {
    let step = table.windows(2).find(|pair| (pair[1].fmr..=pair[0].fmr).contains(&fmr))?;
    Some(on_line(&step[0], &step[1], fmr))
}

/// Distance and shrink on the line through two points of a table. The shrink hardly changes with
/// the rate: beyond the second point it stays what it was there.
fn on_line(upper: &Threshold, lower: &Threshold, fmr: f64) -> (f32, f32) {
    let share = ((fmr.ln() - upper.fmr.ln()) / (lower.fmr.ln() - upper.fmr.ln())) as f32;
    let distance = upper.distance + share * (lower.distance - upper.distance);
    (distance, upper.shrink + share.min(1.0) * (lower.shrink - upper.shrink))
}

/// The rate at a distance, a table's ends continued by their last steps; None: no two points.
fn rate_in(table: &[Threshold], distance: f32) -> Option<f64> {
    let [.., before_last, last] = table else { return None };
    let step = table.windows(2).find(|pair| distance >= pair[1].distance);
    let (upper, lower) = step.map_or((before_last, last), |pair| (&pair[0], &pair[1]));
    let share = f64::from((distance - upper.distance) / (lower.distance - upper.distance));
    let rate = (upper.fmr.ln() + share * (lower.fmr.ln() - upper.fmr.ln())).exp();
    Some(rate.min(table[0].fmr))
}

/// A measured point: at this distance, this share of comparisons of different people is a (false) match, one picture against one.
///
/// Where the mean of several pictures stands on either side, distances of different people are smaller, the more so the more the
/// pictures differ: so much was averaged out. `shrink` says how much at this rate: a match is one whose *squared* distance is at
/// most `distance² − shrink · spread`, the spread being that of the person's pictures plus that of the probe's (see
/// `vision/fuse.rs`). It is measured on means of three against means of three, and holds for every other number of pictures, and
/// for frames that hardly differ, because what counts is the spread and not how many there were. For an embedder
/// for which it was not measured it is 1, and as much counts as `policy::Limits` allows:
/// that is as strict as asking that the pictures match on average.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    pub fmr: f64,
    pub distance: f32,
    #[serde(default = "whole")]
    pub shrink: f32,
    /// Where the distance lies in 95 of 100 draws of the people, with replacement.
    pub interval: Option<[f32; 2]>,
}

fn whole() -> f32 {
    1.0
}

/// What a rate of false matches per comparison comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatingPoint {
    /// One picture against one.
    pub distance: f32,
    /// See [`Threshold`].
    pub shrink: f32,
    /// The population whose people come nearest, which the distance is of.
    pub set_by: String,
    /// The rate asked for is smaller than what is known of this population.
    pub evidence_ends: Option<EvidenceEnd>,
}

/// Where the evidence of a population ends.
#[derive(Clone, Debug, PartialEq)]
pub struct EvidenceEnd {
    /// Its name.
    pub of: String,
    /// The smallest rate of which it gives evidence.
    pub rate: f64,
}

/// What a distance comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    /// At most this share of comparisons of different people is nearer.
    pub at_most: f64,
    /// A smaller share is not known of this population; None: about this share is nearer.
    pub evidence_ends: Option<EvidenceEnd>,
}

/// A table is continued below its smallest rate by this factor at most. From decade to decade the measured distances come nearer
/// to each other, so continuing with the last step is on the strict side; but nobody knows what lies far out.
const CONTINUED_BY: f64 = 100.0;

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{path}: {source}; reinstall the models or set models.dir to their folder")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {problem}")]
    Parse { path: PathBuf, problem: String },
    #[error(
        "{path}: its checksum is {got}, the manifest says {expected}: the file was changed or damaged; reinstall the models"
    )]
    Changed { path: PathBuf, expected: Checksum, got: Checksum },
    #[error("{path}: there is no embedder \"{name}\"; there are: {known}")]
    UnknownEmbedder { path: PathBuf, name: String, known: String },
    #[error("{path}: net \"{net}\": {problem}")]
    Entry { path: PathBuf, net: String, problem: String },
    #[error(
        "embedder \"{net}\": no distances were measured for it{how}, so there is none for a false-match rate; set recognition.max_distance (`facelatch eval` shows which distance gives which rate)"
    )]
    NoThresholds { net: String, how: &'static str },
    #[error(
        "{path}: embedder \"{net}\" has thresholds but no populations: a rate measured on one group of people is not promised to others; measure it (`facelatch eval --people DIR ... --table` prints the populations), or set recognition.max_distance"
    )]
    NoPopulations { path: PathBuf, net: String },
    #[error(
        "embedder \"{net}\": no distance is known for a false-match rate of {wanted:.1e} per comparison, only from {least:.1e} to {most:.1e}; choose another recognition.false_match_rate or set recognition.max_distance"
    )]
    Unmeasured { net: String, wanted: f64, least: f64, most: f64 },
}

impl ManifestError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ManifestError::Read { source, .. } => ErrorKind::of_io(source),
            ManifestError::UnknownEmbedder { .. }
            | ManifestError::Unmeasured { .. }
            | ManifestError::NoThresholds { .. }
            | ManifestError::NoPopulations { .. } => ErrorKind::Conflict,
            ManifestError::Parse { .. } | ManifestError::Changed { .. } | ManifestError::Entry { .. } => ErrorKind::Io,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    version: u32,
    net: Vec<NetEntry>,
}

impl Manifest {
    /// Reads `dir/models.toml`, then every other `*.toml` of the folder in the order of their names. No model file is opened yet.
    ///
    /// # Errors
    /// Missing or unreadable file, unknown keys, a version this program does not know, contradictory entries, two nets of one name.
    pub fn load(dir: &Path) -> Result<Manifest, ManifestError> {
        let shipped = dir.join("models.toml");
        let mut files = vec![shipped.clone()];
        // A folder that cannot be listed is no reason to fail: its models.toml says why in a moment, or all that is needed is in it.
        let more = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        files.extend(more.filter(|path| path.extension().is_some_and(|e| e == "toml") && *path != shipped));
        files[1..].sort();
        let mut manifest = Manifest { dir: dir.to_owned(), nets: Vec::new() };
        for file in &files {
            let text =
                fs::read_to_string(file).map_err(|source| ManifestError::Read { path: file.to_owned(), source })?;
            manifest.add(file, &text)?;
        }
        Ok(manifest)
    }

    /// Takes in the text of one more file, `path`, of the manifest.
    ///
    /// # Errors
    /// As [`Manifest::load`]; entries before the one complained about may have been taken in.
    pub fn add(&mut self, path: &Path, text: &str) -> Result<(), ManifestError> {
        for mut net in read_entries(path, text)? {
            check(&net)?;
            if let Some(first) = net.populations.first() {
                (net.thresholds, net.mirror_thresholds) = (first.thresholds.clone(), first.mirror_thresholds.clone());
            }
            if let Some(first) = self.nets.iter().find(|first| first.name == net.name) {
                let problem = format!("{} has a net of this name already", first.listed_in.display());
                return Err(entry_error(&net, problem));
            }
            self.nets.push(net);
        }
        Ok(())
    }

    /// The shipped part of the manifest.
    pub fn path(&self) -> PathBuf {
        self.dir.join("models.toml")
    }

    pub fn nets(&self) -> &[NetEntry] {
        &self.nets
    }

    /// The one net of a detector's role.
    ///
    /// # Errors
    /// None, or more than one.
    pub fn detector(&self, role: Role) -> Result<&NetEntry, ManifestError> {
        let mut found = self.nets.iter().filter(|net| net.role == role);
        match (found.next(), found.next()) {
            (Some(net), None) => Ok(net),
            (first, _) => Err(ManifestError::Entry {
                path: self.path(),
                net: format!("{role:?}").to_lowercase(),
                problem: if first.is_some() { "is there more than once" } else { "is missing" }.into(),
            }),
        }
    }

    /// The embedder of this name.
    ///
    /// # Errors
    /// There is none; the message lists those there are.
    pub fn embedder(&self, name: &str) -> Result<&NetEntry, ManifestError> {
        let embedders = || self.nets.iter().filter(|net| net.role == Role::Embedder);
        embedders().find(|net| net.name == name).ok_or_else(|| ManifestError::UnknownEmbedder {
            path: self.path(),
            name: name.to_owned(),
            known: embedders().map(|net| net.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// A net's file, verified.
    ///
    /// # Errors
    /// Unreadable, or not the file the manifest was written for.
    pub fn read_net(&self, net: &NetEntry) -> Result<Vec<u8>, ManifestError> {
        self.read_verified(&net.file, &net.checksum)
    }

    /// A last layer's file, verified.
    ///
    /// # Errors
    /// Unreadable, or not the file the manifest was written for.
    pub fn read_layer(&self, layer: &LayerEntry) -> Result<Vec<u8>, ManifestError> {
        self.read_verified(&layer.file, &layer.checksum)
    }

    fn read_verified(&self, file: &str, expected: &Checksum) -> Result<Vec<u8>, ManifestError> {
        let path = self.dir.join(file);
        let bytes = fs::read(&path).map_err(|source| ManifestError::Read { path: path.clone(), source })?;
        let got = expected.function.of(&bytes);
        if got != *expected {
            return Err(ManifestError::Changed { path, expected: expected.clone(), got });
        }
        Ok(bytes)
    }
}

/// The entries of one file of the manifest, unchecked.
fn read_entries(path: &Path, text: &str) -> Result<Vec<NetEntry>, ManifestError> {
    let mut file: ManifestFile = toml::from_str(text)
        .map_err(|error| ManifestError::Parse { path: path.to_owned(), problem: error.to_string() })?;
    if file.version != 1 {
        let problem = format!("version {} is newer than this program, which knows version 1", file.version);
        return Err(ManifestError::Parse { path: path.to_owned(), problem });
    }
    file.net.iter_mut().for_each(|net| net.listed_in = path.to_owned());
    Ok(file.net)
}

fn check(net: &NetEntry) -> Result<(), ManifestError> {
    if net.precisions.is_empty() {
        return Err(entry_error(net, "precisions is empty; give [\"w8\"], [\"int8\"], both, or [\"f32\"]".into()));
    }
    if net.input.iter().any(|side| !(12..=1024).contains(side)) {
        return Err(entry_error(
            net,
            format!("input {:?} is out of range; give [height, width] of 12 to 1024", net.input),
        ));
    }
    if net.role != Role::Embedder {
        return Ok(());
    }
    if !net.dimension.is_some_and(|dimension| (8..=4096).contains(&dimension)) {
        return Err(entry_error(net, "an embedder needs dimension, 8 to 4096".into()));
    }
    check_tables(net)?;
    check_distances(net)?;
    let pixels_are_finite = net.pixels.mean.is_finite() && net.pixels.scale.is_normal();
    let alignment_is_finite = match &net.alignment {
        None => return Err(entry_error(net, "an embedder needs alignment".into())),
        Some(AlignmentEntry::Box { box_margin, .. }) => box_margin.is_finite() && (0.0..=2.0).contains(box_margin),
        Some(AlignmentEntry::FivePoints { points, weights }) => {
            points.iter().flatten().all(|v| v.is_finite()) && weights.iter().all(|w| w.is_finite() && *w > 0.0)
        }
    };
    if !pixels_are_finite || !alignment_is_finite {
        return Err(entry_error(net, "pixels and alignment must be finite numbers, weights greater than 0".into()));
    }
    Ok(())
}

fn check_tables(net: &NetEntry) -> Result<(), ManifestError> {
    let falls = |table: &[Threshold]| {
        table.windows(2).all(|pair| pair[0].fmr > pair[1].fmr && pair[0].distance > pair[1].distance)
            && table.iter().all(|t| {
                t.fmr > 0.0 && t.fmr < 1.0 && t.distance > 0.0 && t.distance < 2.0 && (0.0..=1.0).contains(&t.shrink)
            })
    };
    let rule = "must fall in fmr (0 to 1) and in distance (0 to 2) from one entry to the next, shrink be 0 to 1";
    if !falls(&net.thresholds) || !falls(&net.mirror_thresholds) {
        return Err(entry_error(net, format!("thresholds and mirror_thresholds {rule}")));
    }
    for population in &net.populations {
        if !falls(&population.thresholds) || !falls(&population.mirror_thresholds) {
            let problem = format!("population \"{}\": thresholds and mirror_thresholds {rule}", population.name);
            return Err(entry_error(net, problem));
        }
    }
    check_populations(net)?;
    match net.populations.first() {
        Some(_) if !net.thresholds.is_empty() || !net.mirror_thresholds.is_empty() => {
            Err(entry_error(net, "thresholds stand in its populations; remove those beside them".into()))
        }
        Some(first) if !first.sets_limit => {
            Err(entry_error(net, format!("the first population, \"{}\", has to set the limit", first.name)))
        }
        _ => Ok(()),
    }
}

/// Who the populations are, and that none of them drops out when faces are mirrored.
fn check_populations(net: &NetEntry) -> Result<(), ManifestError> {
    let mirrored = net.populations.first().is_some_and(|first| !first.mirror_thresholds.is_empty());
    for (number, population) in net.populations.iter().enumerate() {
        let Population { name, people, thresholds, mirror_thresholds, .. } = population;
        let intervals = || thresholds.iter().chain(mirror_thresholds).filter_map(|point| point.interval);
        let problem = if name.trim().is_empty() || name.chars().any(char::is_control) {
            "its name must be one line of text: log and page show it"
        } else if net.populations[..number].iter().any(|other| other.name == *name) {
            "another has this name; remove or rename one"
        } else if *people < 2 && !(thresholds.is_empty() && mirror_thresholds.is_empty()) {
            "people must be 2 or more where there are thresholds"
        } else if intervals().any(|[low, high]| !(0.0 <= low && low <= high && high <= 2.0)) {
            "an interval must rise, within 0 to 2"
        } else if number == 0
            && thresholds.is_empty()
            && net.populations.iter().any(|other| !other.thresholds.is_empty())
        {
            "it comes first and has no thresholds; put the population with the most comparisons first"
        } else if mirrored && thresholds.is_empty() != mirror_thresholds.is_empty() {
            "thresholds and mirror_thresholds must both be given, or neither: it would set no limit without or with models.mirror"
        } else {
            continue;
        };
        return Err(entry_error(net, format!("population {name:?}: {problem}")));
    }
    Ok(())
}

/// The distances besides those of matches.
fn check_distances(net: &NetEntry) -> Result<(), ManifestError> {
    let keys = [
        ("max_spread", net.max_spread, 2.0),
        ("margin", net.margin, 1.0),
        ("same_face", net.same_face, 2.0),
        ("one_moment", net.one_moment, 2.0),
    ];
    for (key, value, below) in keys {
        if let Some(value) = value.filter(|value| !(*value > 0.0 && *value < below)) {
            return Err(entry_error(
                net,
                format!("{key} = {value}; give a distance, more than 0 and less than {below}"),
            ));
        }
    }
    if net.one_moment.zip(net.max_spread).is_some_and(|(moment, spread)| moment > spread) {
        return Err(entry_error(net, "one_moment must not be greater than max_spread".into()));
    }
    Ok(())
}

fn entry_error(net: &NetEntry, problem: String) -> ManifestError {
    ManifestError::Entry { path: net.listed_in.clone(), net: net.name.clone(), problem }
}

impl NetEntry {
    /// What embeddings of this entry are comparable with: a hash of both files and of the face's preparation.
    pub fn model_id(&self) -> ModelId {
        let layer = self.last_layer.as_ref().map(|layer| layer.checksum.to_string());
        let made_by = format!("{} {layer:?} {:?} {:?} {:?}", self.checksum, self.input, self.pixels, self.alignment);
        let digest = Sha256::digest(made_by.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        if self.mirrored { ModelId(id).mirroring() } else { ModelId(id) }
    }

    /// The entry as it is with mirror images averaged in, or without: another model, with thresholds of its own.
    pub fn mirroring(&self, mirror: bool) -> NetEntry {
        let mut entry = NetEntry { mirrored: mirror, ..self.clone() };
        if mirror {
            entry.thresholds.clone_from(&self.mirror_thresholds);
            for population in &mut entry.populations {
                population.thresholds = std::mem::take(&mut population.mirror_thresholds);
            }
        }
        entry
    }

    /// What `fmr` false matches per comparison of different people comes to: of all populations the
    /// nearest distance that is known for it. The first population's table is interpolated, linear
    /// in the logarithm of the rate, and continued below its end with its last step for two decades.
    ///
    /// # Errors
    /// Nothing was measured, or the rate lies outside of that: nothing is guessed.
    pub fn operating_point(&self, fmr: f64) -> Result<OperatingPoint, ManifestError> {
        let net = self.name.clone();
        if self.thresholds.is_empty() {
            let how = if self.mirrored { " with models.mirror" } else { "" };
            return Err(ManifestError::NoThresholds { net, how });
        }
        let Some((first, others)) = self.populations.split_first() else {
            return Err(ManifestError::NoPopulations { path: self.listed_in.clone(), net });
        };
        let (most, least) = (self.thresholds.first(), self.thresholds.last());
        let unmeasured = || ManifestError::Unmeasured {
            net: self.name.clone(),
            wanted: fmr,
            least: least.map_or(f64::NAN, |t| t.fmr / CONTINUED_BY),
            most: most.map_or(f64::NAN, |t| t.fmr),
        };
        let continued = || match &self.thresholds[..] {
            [.., upper, lower] if fmr >= lower.fmr / CONTINUED_BY => Some(on_line(upper, lower, fmr)),
            _ => None,
        };
        let point = interpolated(&self.thresholds, fmr).or_else(|| (fmr < least?.fmr).then(continued)?);
        let (distance, shrink) = point.filter(|(distance, _)| *distance > 0.0).ok_or_else(unmeasured)?;
        let limiting = others.iter().filter(|population| population.sets_limit);
        let nearest = limiting
            .filter_map(|population| Some((population.limit(fmr)?, population)))
            .min_by(|(one, _), (other, _)| one.total_cmp(other));
        let own = distance;
        let (distance, set_by) = nearest.filter(|(other, _)| *other < own).unwrap_or((own, first));
        // The first population may be the stricter one because nothing more is known of
        // the others.
        let nearest = nearest.map(|(_, population)| population);
        let evidence = [Some(set_by), nearest].into_iter().flatten().filter_map(|of| of.no_evidence_of(fmr));
        let evidence_ends = evidence.max_by(|one, other| one.rate.total_cmp(&other.rate));
        // Means were measured on the first population only. Spreads add up to at most 1, so what
        // another's limit is stricter by stays within the first one's at every spread.
        let shrink = (shrink - (own * own - distance * distance)).max(0.0);
        Ok(OperatingPoint { distance, shrink, set_by: set_by.name.clone(), evidence_ends })
    }

    /// The distance, one picture against one, at which `fmr` of comparisons of different people match.
    ///
    /// # Errors
    /// As [`NetEntry::operating_point`].
    pub fn distance_for(&self, fmr: f64) -> Result<f32, ManifestError> {
        Ok(self.operating_point(fmr)?.distance)
    }

    /// The way back: at most this share of comparisons of different people, one picture against
    /// one, is nearer than `distance`, whichever population they are of. A distance outside of the
    /// tables gets the rate at that end of them; None: there is no table.
    pub fn rate_at(&self, distance: f32) -> Option<Rate> {
        let least = self.thresholds.last()?.fmr / CONTINUED_BY;
        let first = rate_in(&self.thresholds, distance)?.max(least);
        let others = self.populations.iter().skip(1).filter(|population| population.sets_limit);
        let known = others.filter_map(|population| Some((population.rate_at(distance)?, population)));
        // Of populations that end at one rate, the one whose people come nearest.
        let most = known.filter(|(rate, _)| *rate > first).max_by(|(a, one), (b, other)| {
            let last = |population: &Population| population.thresholds.last().map_or(0.0, |last| last.distance);
            a.total_cmp(b).then(last(other).total_cmp(&last(one)))
        });
        let Some((at_most, population)) = most else { return Some(Rate { at_most: first, evidence_ends: None }) };
        let ends = population.thresholds.last().is_some_and(|last| distance <= last.distance);
        let evidence_ends = ends.then(|| EvidenceEnd { of: population.name.clone(), rate: at_most });
        Some(Rate { at_most, evidence_ends })
    }

    /// Whether nothing was measured at a distance so large, of one at least of the
    /// populations that set the limit; and the rate that is surely exceeded.
    pub fn looser_than_measured(&self, distance: f32) -> Option<f64> {
        let limiting = self.populations.iter().filter(|population| population.sets_limit);
        let loosest = limiting.filter_map(|population| population.thresholds.first());
        let exceeded = loosest.chain(self.thresholds.first()).filter(|loosest| distance > loosest.distance);
        exceeded.map(|loosest| loosest.fmr).max_by(f64::total_cmp)
    }
}

impl AlignmentEntry {
    /// The template's points, for five-point alignments.
    pub fn points(&self) -> Option<[Point; 5]> {
        match self {
            AlignmentEntry::FivePoints { points, .. } => Some(points.map(|[x, y]| Point { x, y })),
            AlignmentEntry::Box { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest_in(dir: &Path, text: &str) -> Result<Manifest, ManifestError> {
        fs::write(dir.join("models.toml"), text).expect("the test's folder is writable");
        Manifest::load(dir)
    }

    fn entry(more: &str) -> String {
        format!(
            "version = 1\n[[net]]\nname = \"a\"\nrole = \"embedder\"\nfile = \"a.onnx\"\nchecksum = \"blake3:00\"\nprecisions = [\"w8\"]\n\
             input = [112, 112]\nlicense = \"MIT\"\norigin = \"test\"\n{more}\n"
        )
    }

    const COMPLETE: &str = "dimension = 128\nalignment = { box_margin = 0.25 }\n\
        populations = [{ name = \"many\", source = \"test\", people = 999, comparisons = 999999, thresholds = [\
        { fmr = 1e-2, distance = 0.5 }, { fmr = 1e-4, distance = 0.3 }] }]";

    /// [`COMPLETE`], and another population with this table.
    fn with_another(table: &str) -> String {
        let another =
            format!(", {{ name = \"others\", source = \"test\", people = 99, comparisons = 999999, {table} }}]");
        entry(&format!("{}{another}", COMPLETE.strip_suffix(']').unwrap()))
    }

    #[test]
    fn a_rate_between_measured_ones_is_interpolated_in_its_logarithm() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest_in(dir.path(), &entry(COMPLETE)).unwrap();
        let net = manifest.embedder("a").unwrap();
        assert!((net.distance_for(1e-3).unwrap() - 0.4).abs() < 1e-6);
        assert!((net.distance_for(1e-2).unwrap() - 0.5).abs() < 1e-6);
    }

    #[test]
    fn below_the_table_it_is_continued_for_two_decades_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let text = entry(COMPLETE).replace("distance = 0.3 }", "distance = 0.3, shrink = 0.5 }");
        let manifest = manifest_in(dir.path(), &text).unwrap();
        let net = manifest.embedder("a").unwrap();
        let point = net.operating_point(1e-6).unwrap();
        assert!((point.distance - 0.1).abs() < 1e-6 && point.shrink == 0.5, "{point:?}");
        assert_eq!(point.evidence_ends, Some(EvidenceEnd { of: point.set_by, rate: 1e-4 }));
        let point = net.operating_point(1e-3).unwrap();
        assert!(
            (point.shrink - 0.75).abs() < 1e-6 && point.evidence_ends.is_none(),
            "{point:?}: 1 where nothing was measured"
        );
    }

    #[test]
    fn rate_and_distance_are_each_others_way_back() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest_in(dir.path(), &entry(COMPLETE)).unwrap();
        let net = manifest.embedder("a").unwrap();
        for fmr in [1e-2, 3e-3, 1e-4, 2e-5, 1e-6] {
            let back = net.rate_at(net.distance_for(fmr).unwrap()).unwrap();
            assert_eq!(back.evidence_ends, None);
            let back = back.at_most;
            assert!((back / fmr - 1.0).abs() < 1e-4, "{fmr} {back}");
        }
        let at_most = |distance| net.rate_at(distance).unwrap().at_most;
        assert_eq!((at_most(1.9), at_most(0.01)), (1e-2, 1e-6));
    }

    #[test]
    fn a_rate_that_was_not_measured_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest_in(dir.path(), &entry(COMPLETE)).unwrap();
        for fmr in [1e-1, 0.9e-6, 0.0, f64::NAN] {
            let error = manifest.embedder("a").unwrap().distance_for(fmr).unwrap_err().to_string();
            assert!(error.contains("recognition.max_distance"), "{error}");
        }
    }

    #[test]
    fn without_a_measurement_a_distance_is_demanded() {
        let dir = tempfile::tempdir().unwrap();
        let text = entry("dimension = 128\nalignment = { box_margin = 0.1, square = false }");
        let manifest = manifest_in(dir.path(), &text).unwrap();
        let error = manifest.embedder("a").unwrap().distance_for(1e-4).unwrap_err().to_string();
        assert!(error.contains("\"a\"") && error.contains("set recognition.max_distance"), "{error}");
        let manifest = manifest_in(dir.path(), &entry(COMPLETE)).unwrap();
        let mirrored = manifest.embedder("a").unwrap().mirroring(true);
        let error = mirrored.distance_for(1e-3).unwrap_err().to_string();
        assert!(error.contains("measured for it with models.mirror"), "{error}");
    }

    #[test]
    fn the_population_whose_people_come_nearest_sets_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let text = with_another("thresholds = [{ fmr = 1e-2, distance = 0.45 }, { fmr = 1e-3, distance = 0.35 }]");
        let manifest = manifest_in(dir.path(), &text).unwrap();
        let net = manifest.embedder("a").unwrap();
        let at = |rate| {
            let point = net.operating_point(rate).unwrap();
            ((point.distance * 1000.0).round(), point.set_by, point.evidence_ends)
        };
        let ends = Some(EvidenceEnd { of: "others".into(), rate: 1e-3 });
        assert_eq!(at(1e-2), (450.0, "others".into(), None));
        assert_eq!(at(1e-3), (350.0, "others".into(), None));
        // Beyond its evidence nothing is guessed, and nothing looser than its last distance holds.
        assert_eq!(at(5e-4), (350.0, "others".into(), ends.clone()));
        assert_eq!(at(1e-4), (300.0, "many".into(), ends.clone()), "of the others nothing is known");
        assert_eq!(net.rate_at(0.34), Some(Rate { at_most: 1e-3, evidence_ends: ends }));
        let within = net.rate_at(0.4).unwrap();
        assert!((within.at_most / 3.16e-3 - 1.0).abs() < 1e-2 && within.evidence_ends.is_none());
        // One population measured at this distance says nothing of the others.
        assert_eq!([0.44, 0.46, 0.51].map(|at| net.looser_than_measured(at)), [None, Some(1e-2), Some(1e-2)]);
    }

    #[test]
    fn a_stricter_population_leaves_the_first_ones_limit_for_means() {
        let manifest = Manifest::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models")).unwrap();
        for name in ["mobilefacenet", "dlib-triplet", "dlib"] {
            let net = manifest.embedder(name).unwrap();
            let alone = NetEntry { populations: net.populations[..1].to_vec(), ..net.clone() };
            for rate in [1e-2, 3e-3, 1e-3, 7e-5, 1e-5] {
                let (all, first) = (net.operating_point(rate).unwrap(), alone.operating_point(rate).unwrap());
                let square = |point: &OperatingPoint, spread| point.distance.powi(2) - point.shrink * spread;
                for spread in [0.0, 0.1, 0.35, 0.7, 1.0] {
                    assert!(square(&all, spread) <= square(&first, spread) + 1e-5, "{name} at {rate}, {spread}");
                }
                assert!(all.shrink <= first.shrink, "{name} at {rate}");
            }
        }
    }

    #[test]
    fn people_who_set_no_limit_or_gave_no_evidence_change_none() {
        let dir = tempfile::tempdir().unwrap();
        for table in ["sets_limit = false, thresholds = [{ fmr = 1e-2, distance = 0.1 }]", "thresholds = []"] {
            let manifest = manifest_in(dir.path(), &with_another(table)).unwrap();
            let net = manifest.embedder("a").unwrap();
            let point = net.operating_point(1e-3).unwrap();
            assert_eq!((point.distance, point.set_by.as_str()), (0.4, "many"), "{table}");
            assert!((net.rate_at(0.4).unwrap().at_most / 1e-3 - 1.0).abs() < 1e-4);
        }
    }

    #[test]
    fn without_populations_no_rate_is_promised() {
        let dir = tempfile::tempdir().unwrap();
        let text = entry(
            "dimension = 128\nalignment = { box_margin = 0.1 }\n\
             thresholds = [{ fmr = 1e-2, distance = 0.5 }, { fmr = 1e-4, distance = 0.3 }]",
        );
        let manifest = manifest_in(dir.path(), &text).unwrap();
        let error = manifest.embedder("a").unwrap().distance_for(1e-3).unwrap_err().to_string();
        for part in ["models.toml", "\"a\"", "no populations", "facelatch eval --people", "max_distance"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_model_file_with_one_byte_changed_is_refused() {
        for function in [HashFunction::Blake3, HashFunction::Sha256] {
            let dir = tempfile::tempdir().unwrap();
            let good = b"some network".to_vec();
            let checksum = function.of(&good).to_string();
            let manifest = manifest_in(dir.path(), &entry(COMPLETE).replace("blake3:00", &checksum)).unwrap();
            let net = manifest.embedder("a").unwrap();
            fs::write(dir.path().join("a.onnx"), &good).unwrap();
            assert_eq!(manifest.read_net(net).unwrap(), good);
            let mut bad = good.clone();
            bad[3] ^= 1;
            fs::write(dir.path().join("a.onnx"), bad).unwrap();
            let error = manifest.read_net(net).unwrap_err().to_string();
            assert!(error.contains("a.onnx") && error.contains(&checksum), "{error}");
        }
    }

    #[test]
    fn a_checksum_that_is_none_is_refused_with_what_to_give() {
        for bad in ["", "00", "md5:00", "blake3:", "sha256:xyz"] {
            let error = Checksum::try_from(bad.to_owned()).unwrap_err();
            assert!(error.contains("sha256sum") && error.contains(bad), "{error}");
        }
        // That of no bytes, as the two functions' authors publish it.
        let empty = "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";
        assert_eq!(Checksum::try_from(empty.to_owned()).unwrap(), HashFunction::Sha256.of(b""));
        let empty = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Checksum::try_from(empty.to_owned()).unwrap(), Checksum::of(b""));
    }

    #[test]
    fn contradictory_manifests_are_refused_with_the_net_named() {
        let dir = tempfile::tempdir().unwrap();
        for (bad, word) in [
            ("alignment = { box_margin = 0.25 }", "dimension"),
            ("dimension = 128", "alignment"),
            ("dimension = 128\nalignment = { box_margin = nan }", "finite"),
            (
                "dimension = 128\nalignment = { box_margin = 0.1 }\nthresholds = [{ fmr = 1e-2, distance = 0.5, shrink = 1.5 }]",
                "shrink",
            ),
            (
                "dimension = 128\nalignment = { box_margin = 0.1 }\nthresholds = [{ fmr = 1e-4, distance = 0.5 }, { fmr = 1e-2, distance = 0.3 }]",
                "thresholds",
            ),
        ] {
            let error = manifest_in(dir.path(), &entry(bad)).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("\"a\""), "{error}");
        }
        for (bad, word) in [
            ("thresholds = [{ fmr = 1e-4, distance = 0.5 }, { fmr = 1e-2, distance = 0.3 }]", "\"others\""),
            ("thresholds = [{ fmr = 1e-3, distance = nan }]", "\"others\""),
            ("rate = 1e-3", "rate"),
        ] {
            let error = manifest_in(dir.path(), &with_another(bad)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let table = "thresholds = [{ fmr = 1e-2, distance = 0.4 }]";
        let other = with_another(table);
        let unmirrored = other.replacen("}] }", "}], mirror_thresholds = [{ fmr = 1e-2, distance = 0.5 }] }", 1);
        for (bad, word) in [
            (other.replace("others", "many"), "\"many\": another has this name"),
            (other.replace("others", " "), "one line of text"),
            (other.replace("others", "o\\u001b[2J\\nthers"), "\"o\\u{1b}[2J\\nthers\": its name"),
            (other.replace("people = 99,", "people = 1,"), "people must be 2 or more"),
            (with_another(&table.replace(" }", ", interval = [0.5, 0.4] }")), "interval"),
            (with_another(&table.replace(" }", ", interval = [nan, 0.4] }")), "interval"),
            (
                other.replacen("thresholds = [{ fmr = 1e-2, distance = 0.5 }, { fmr = 1e-4, distance = 0.3 }]", "", 1),
                "comes first",
            ),
            (unmirrored, "\"others\": thresholds and mirror_thresholds must both"),
        ] {
            let error = manifest_in(dir.path(), &bad).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("net \"a\"") && error.contains("models.toml"), "{error}");
        }
        let twice = format!("{COMPLETE}\nthresholds = [{{ fmr = 1e-3, distance = 0.5 }}]");
        let error = manifest_in(dir.path(), &entry(&twice)).unwrap_err().to_string();
        assert!(error.contains("remove those beside"), "{error}");
        let without = entry(COMPLETE).replace("people = 999", "people = 999, sets_limit = false");
        let error = manifest_in(dir.path(), &without).unwrap_err().to_string();
        assert!(error.contains("\"many\", has to set the limit"), "{error}");
    }

    #[test]
    fn distances_that_cannot_be_are_refused_with_their_key() {
        let dir = tempfile::tempdir().unwrap();
        let with = |line: &str| manifest_in(dir.path(), &entry(&format!("{COMPLETE}\n{line}")));
        for key in ["max_spread", "margin", "same_face", "one_moment"] {
            for bad in ["nan", "inf", "-inf", "0.0", "-0.1", "2.0"] {
                let error = with(&format!("{key} = {bad}")).unwrap_err().to_string();
                assert!(error.contains(key) && error.contains("\"a\"") && error.contains("models.toml"), "{error}");
            }
            for bad in ["\"1.0\"", "[]", "true"] {
                assert!(with(&format!("{key} = {bad}")).unwrap_err().to_string().contains(key));
            }
        }
        assert!(with("one_moment = 0.9\nmax_spread = 0.8").unwrap_err().to_string().contains("one_moment"));
        let manifest = with("max_spread = 1.0\nmargin = 0.2\nsame_face = 0.9\none_moment = 0.4").unwrap();
        assert_eq!(manifest.embedder("a").unwrap().max_spread, Some(1.0));
    }

    #[test]
    fn entries_beside_the_shipped_ones_are_taken_in_and_names_stay_unique() {
        let dir = tempfile::tempdir().unwrap();
        let other = entry(COMPLETE).replace("name = \"a\"", "name = \"b\"");
        fs::write(dir.path().join("b.toml"), &other).unwrap();
        let manifest = manifest_in(dir.path(), &entry(COMPLETE)).unwrap();
        assert_eq!(manifest.embedder("b").unwrap().listed_in, dir.path().join("b.toml"));
        fs::write(dir.path().join("c.toml"), &other).unwrap();
        let error = Manifest::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("c.toml") && error.contains("b.toml has a net of this name"), "{error}");
    }

    #[test]
    fn the_model_id_changes_with_everything_that_makes_an_embedding() {
        let dir = tempfile::tempdir().unwrap();
        let id = |text: &str| manifest_in(dir.path(), text).unwrap().embedder("a").unwrap().model_id();
        let first = id(&entry(COMPLETE));
        assert_eq!(first, id(&entry(COMPLETE)));
        for changed in [
            entry(COMPLETE).replace("blake3:00", "blake3:01"),
            entry(COMPLETE).replace("0.25", "0.2"),
            entry(COMPLETE).replace("0.25", "0.25, square = false"),
            entry(&format!("{COMPLETE}\npixels = {{ order = \"bgr\", mean = 0.0, scale = 1.0 }}")),
            entry(&format!("{COMPLETE}\nlast_layer = {{ file = \"l.npy\", checksum = \"sha256:02\" }}")),
        ] {
            assert_ne!(first, id(&changed));
        }
        assert_eq!(
            first,
            id(&entry(COMPLETE).replace("[\"w8\"]", "[\"w8\", \"int8\"]")),
            "the same for every precision"
        );
    }

    proptest::proptest! {
        #[test]
        fn rubbish_never_panics(text in "\\PC{0,200}") {
            let dir = tempfile::tempdir().unwrap();
            let _ = manifest_in(dir.path(), &text);
            let _ = manifest_in(dir.path(), &entry(&text));
        }
    }
}
