//! Which nets are loaded, in which precision: told, or measured on this machine and remembered.

use std::{
    collections::BTreeMap,
    fmt, fs,
    time::{Duration, Instant},
};

use super::{StartError, detector_settings};
use crate::{
    config::{Config, ModelsConfig, PrecisionChoice},
    store::Store,
    vision::{
        Vision, VisionError,
        manifest::{Manifest, NetEntry},
        model::Precision,
        net::Net,
    },
};

/// The nets in memory.
#[derive(Clone)]
pub(super) struct Loaded {
    pub vision: Vision,
    /// The embedder's.
    pub precision: Precision,
    /// That of all nets in words.
    pub precisions: String,
}

/// Loads the nets in the precision told; `auto` takes, net by net, the one that was the fastest when it was measured at the first
/// start on this machine.
pub(super) fn load_vision(config: &Config, store: &Store, entry: &NetEntry) -> Result<Loaded, StartError> {
    let forced = match config.models.precision {
        PrecisionChoice::W8 => Some(Precision::W8),
        PrecisionChoice::Int8 => Some(Precision::Int8),
        PrecisionChoice::Auto => None,
    };
    if let Some(precision) = forced {
        let ModelsConfig { dir, embedder, mirror, .. } = &config.models;
        let vision = Vision::load(dir, embedder, precision, detector_settings(&config.detection))?;
        return Ok(Loaded { vision: vision.mirroring(*mirror), precision, precisions: precision.to_string() });
    }
    // Another version of the program may be faster in another precision.
    let machine = format!(" on {} with {} {}", cpu_model(), entry.model_id(), env!("CARGO_PKG_VERSION"));
    let remembered = store.recall("precision")?;
    if let Some(fastest) = remembered.as_deref().and_then(|text| text.strip_suffix(&machine)).and_then(Fastest::parse) {
        return Ok(fastest.load(config, entry)?);
    }
    let fastest = Fastest::measure(config)?;
    store.remember("precision", &format!("{fastest}{machine}"))?;
    Ok(fastest.load(config, entry)?)
}

const PRECISIONS: [Precision; 3] = [Precision::W8, Precision::Int8, Precision::F32];

/// Which precision each net is the fastest in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fastest(BTreeMap<String, Precision>);

impl Fastest {
    /// Runs each net a few times in each precision that it offers.
    pub(crate) fn measure(config: &Config) -> Result<Fastest, VisionError> {
        let (dir, embedder) = (&config.models.dir, &config.models.embedder);
        let manifest = Manifest::load(dir)?;
        let mut times: BTreeMap<String, Vec<(Duration, Precision)>> = BTreeMap::new();
        for wanted in PRECISIONS.into_iter().filter(|p| manifest.nets().iter().any(|net| net.precisions.contains(p))) {
            let of = |net: &NetEntry| if net.precisions.contains(&wanted) { wanted } else { net.precisions[0] };
            let vision = Vision::load_each(dir, embedder, of, detector_settings(&config.detection))?;
            for net in vision.nets() {
                let entry = manifest.nets().iter().find(|entry| entry.name == net.name());
                if entry.is_some_and(|entry| entry.precisions.contains(&wanted)) {
                    times.entry(net.name().to_owned()).or_default().push((shortest_run(net), wanted));
                }
            }
        }
        times.values_mut().for_each(|times| times.sort_by_key(|(time, _)| *time));
        let told = times.iter().filter(|(_, times)| times.len() > 1).map(|(net, times)| {
            let times = times.iter().map(|(time, precision)| format!("{time:.1?} as {precision}"));
            format!("{net} takes {}", times.collect::<Vec<_>>().join(", "))
        });
        let told: Vec<String> = told.collect();
        if !told.is_empty() {
            log::info!("measured on this processor: {}", told.join("; "));
        }
        Ok(Fastest(times.into_iter().map(|(net, times)| (net, times[0].1)).collect()))
    }

    /// As it was written by `Display`.
    fn parse(text: &str) -> Option<Fastest> {
        let precision = |name: &str| PRECISIONS.into_iter().find(|precision| precision.to_string() == name);
        let pair = |word: &str| {
            let (net, name) = word.rsplit_once('=')?;
            Some((net.to_owned(), precision(name)?))
        };
        Some(Fastest(text.split(", ").map(pair).collect::<Option<_>>()?))
    }

    pub(crate) fn of(&self, net: &NetEntry) -> Precision {
        self.0.get(&net.name).copied().unwrap_or(net.precisions[0])
    }

    /// The nets as they are fastest.
    fn load(&self, config: &Config, embedder: &NetEntry) -> Result<Loaded, VisionError> {
        let ModelsConfig { dir, embedder: name, mirror, .. } = &config.models;
        let vision = Vision::load_each(dir, name, |net| self.of(net), detector_settings(&config.detection))?;
        log::info!("the fastest on this processor: {self}");
        let precision = self.of(embedder);
        let precisions = format!("{precision} (the fastest on this processor: {self})");
        Ok(Loaded { vision: vision.mirroring(*mirror), precision, precisions })
    }
}

impl fmt::Display for Fastest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.iter().map(|(net, precision)| format!("{net}={precision}"));
        f.write_str(&pairs.collect::<Vec<_>>().join(", "))
    }
}

/// The shortest of a few runs on black: what else the machine does makes it longer, never shorter.
fn shortest_run(net: &Net) -> Duration {
    let (height, width) = net.input();
    let black = vec![0.0; 3 * height * width];
    let run = |_| {
        let started = Instant::now();
        let _ = net.run(&black);
        started.elapsed()
    };
    (0..6).map(run).min().unwrap_or(Duration::MAX)
}

pub(crate) fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name") || line.starts_with("Model"));
    line.and_then(|line| line.split_once(':')).map_or_else(|| "unknown".into(), |(_, model)| model.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_fastest_is_read_as_it_was_written() {
        let fastest = Fastest(BTreeMap::from([("onet".into(), Precision::Int8), ("a=b".into(), Precision::W8)]));
        assert_eq!(Fastest::parse(&fastest.to_string()), Some(fastest));
        assert_eq!(Fastest::parse("onet"), None);
        assert_eq!(Fastest::parse("w8 "), None, "as a former version wrote it");
    }
}
