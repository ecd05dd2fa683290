//! What this door's own strangers say about its limit.
//!
//! A model's table was measured on other people than those who come to this door. Faces
//! of one origin, age or light lie nearer to each other than the table says. Of each
//! denied visit the store keeps one number: the distance at which the visit would have
//! been let in. No face and no template is kept.
//!
//! In every population measured, distances of different people follow a normal
//! distribution of nearly the same width; what differs is its centre
//! (docs/door-evidence.md). So the width comes from the model's table and the centre from
//! this door: the median of its strangers' visits. A few that are something else (known
//! people in bad light, pictures held up, hidden faces) hardly move it.
//!
//! The door's own limit counts where all of its interval lies below the table's limit. It
//! only tightens, and never beyond the nearest distance in the table: known people stay
//! known, even if an attacker holds up pictures.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::vision::manifest::NetEntry;

/// Width of a bin, as a distance of one picture against one.
pub const BIN: f32 = 0.01;
/// Distances reach from 0 to 2.
const BINS: u8 = 200;
/// Fewer visits than this say nothing.
pub const ENOUGH_VISITS: u32 = 40;
/// Standard deviations within which 95 of 100 normal values lie.
const TWO_SIDED: f64 = 1.96;

/// Visits of strangers, by how many comparisons each had and how near it came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Nearness(BTreeMap<(u32, u8), u32>);

impl Nearness {
    /// One more visit. `comparisons` is what it was compared with; a distance that is not
    /// a number is none.
    pub fn add(&mut self, comparisons: usize, distance: f32) {
        if !(0.0..=2.0).contains(&distance) {
            return;
        }
        let bin = ((distance / BIN) as u8).min(BINS - 1);
        let comparisons = u32::try_from(comparisons.max(1)).unwrap_or(u32::MAX);
        let count = self.0.entry((comparisons, bin)).or_default();
        *count = count.saturating_add(1);
    }

    pub fn merge(&mut self, other: &Nearness) {
        for (key, more) in &other.0 {
            let count = self.0.entry(*key).or_default();
            *count = count.saturating_add(*more);
        }
    }

    pub fn visits(&self) -> u32 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Distances and how many visits came that near, the nearest first.
    pub fn bins(&self) -> BTreeMap<u8, u32> {
        let mut bins: BTreeMap<u8, u32> = BTreeMap::new();
        for ((_, bin), count) in &self.0 {
            let sum = bins.entry(*bin).or_default();
            *sum = sum.saturating_add(*count);
        }
        bins
    }
}

/// How distances of different people are distributed, from a model's table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Width {
    deviation: f64,
    /// The nearest distance that was measured: no limit is set below it.
    floor: f32,
}

impl Width {
    /// None: the table has less than two entries.
    pub fn of(embedder: &NetEntry) -> Option<Width> {
        let table = &embedder.thresholds;
        let slope = |pair: &[crate::vision::manifest::Threshold]| {
            f64::from(pair[0].distance - pair[1].distance) / (quantile(pair[0].fmr) - quantile(pair[1].fmr))
        };
        // The median of the steps: the last one rests on few people.
        let mut slopes: Vec<f64> = table.windows(2).map(slope).collect();
        slopes.sort_by(f64::total_cmp);
        let deviation = slopes.get(slopes.len().checked_sub(1)? / 2).copied()?;
        Some(Width { deviation, floor: table.last()?.distance })
    }

    /// The nearest of `comparisons` distances lies within this of the centre in a share
    /// `rate` of all visits.
    fn below_centre(&self, rate: f64, comparisons: u32) -> f64 {
        // 1 - (1 - rate)^(1 / comparisons), without losing digits.
        let single = -((-rate).ln_1p() / f64::from(comparisons.max(1))).exp_m1();
        self.deviation * quantile(single)
    }
}

/// The centre of the distances between one person enrolled and this door's strangers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    pub visits: u32,
    centre: f64,
    interval: (f64, f64),
    width: Width,
}

impl Fit {
    /// None: there was no visit.
    pub fn of(nearness: &Nearness, width: Width) -> Option<Fit> {
        // The nearest of many lies nearer than that of one: each visit says where the
        // centre would be.
        let centre = |((comparisons, bin), count): (&(u32, u8), &u32)| {
            let distance = (f64::from(*bin) + 0.5) * f64::from(BIN);
            (distance - width.below_centre(0.5, *comparisons), *count)
        };
        let mut centres: Vec<(f64, u32)> = nearness.0.iter().map(centre).collect();
        centres.sort_by(|a, b| a.0.total_cmp(&b.0));
        let visits = nearness.visits();
        let at = |rank: u32| {
            let mut seen = 0u32;
            let reached = |(_, count): &&(f64, u32)| {
                seen = seen.saturating_add(*count);
                seen > rank
            };
            centres.iter().find(reached).map(|(centre, _)| *centre)
        };
        // Of the median by ranks, whatever the distribution (Conover 1999, "Practical
        // Nonparametric Statistics").
        let number = f64::from(visits);
        let low = ((number - TWO_SIDED * number.sqrt()) / 2.0).max(0.0) as u32;
        let last = visits.checked_sub(1)?;
        Some(Fit { visits, centre: at(last / 2)?, interval: (at(low)?, at(last.saturating_sub(low))?), width })
    }

    /// The limit at which a share `per_visit` of the visits of this door's strangers is
    /// let in, with `comparisons` enrolled now.
    pub fn limit(&self, per_visit: f64, comparisons: usize) -> OwnLimit {
        let comparisons = u32::try_from(comparisons).unwrap_or(u32::MAX);
        let below = self.width.below_centre(per_visit, comparisons);
        let at = |centre: f64| ((centre + below) as f32).max(self.width.floor);
        OwnLimit { limit: at(self.centre), interval: [at(self.interval.0), at(self.interval.1)], visits: self.visits }
    }
}

/// The limit that this door's own strangers speak for, with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnLimit {
    pub limit: f32,
    pub interval: [f32; 2],
    pub visits: u32,
}

impl OwnLimit {
    /// Whether enough visits show that strangers lie nearer than the table says.
    pub fn tightens(&self, table: f32) -> bool {
        self.visits >= ENOUGH_VISITS && self.interval[1] < table && self.limit < table
    }
}

/// The value that a standard normal one is below with this probability.
fn quantile(probability: f64) -> f64 {
    // Bisection: the value is needed now and then only.
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        let below = libm::erfc(-middle / std::f64::consts::SQRT_2) / 2.0;
        if below < probability { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

#[cfg(test)]
pub(crate) mod tests;
