//! From the false-match rate somebody wants to the distance of a match.
//!
//! The rate is asked for per visit: of so many strangers who come to the door, one is taken for somebody. A stranger has several
//! chances to be: with each person enrolled, and with each look that is taken at him. By Boole's inequality his chance in all is
//! at most the sum of the single ones, whatever they have to do with each other; so the rate is divided by their number, and the
//! model manifest says at which distance a single comparison is a false match as rarely as that.

use std::{fmt, sync::Arc};

use crate::{
    config::RecognitionConfig,
    evidence::Fit,
    policy::Limits,
    vision::manifest::{EvidenceEnd, ManifestError, NetEntry},
};

/// A visit counts as so many looks that have nothing to do with each other. Frames of one visit resemble each other, and several of
/// them have to agree, so it is far fewer than frames: at most this many were measured, with the votes of the policy on fused
/// probes (README.md, `make fusion`).
pub const LOOKS_PER_VISIT: f64 = 3.0;

/// What was chosen, and from what.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    pub limits: Limits,
    /// What a probe is compared with: people, or with `template_fusion = "best"` pictures.
    pub comparisons: usize,
    /// False matches wanted per visit of a stranger; None: the distance was given.
    pub per_visit: Option<f64>,
    /// False matches per comparison that this distance stands for; None: nothing was measured.
    pub per_comparison: Option<f64>,
    /// Of a distance that was given: of some population none so loose was measured.
    pub beyond_measured: bool,
    /// The population whose people come nearest, which set the limit; None: the distance was given.
    pub set_by: Option<Arc<str>>,
    /// The rate per comparison is smaller than what is known of this population; of a
    /// distance that was given, the rate may be smaller.
    pub evidence_ends: Option<EvidenceEnd>,
    /// Where this door's own strangers set it.
    pub own: Option<Own>,
}

/// What a door's own evidence changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Own {
    /// The limit without it.
    pub by_table: f32,
    /// Visits of strangers that it rests on.
    pub visits: u32,
}

/// The rate wanted is out of reach.
#[derive(Debug, thiserror::Error)]
#[error(
    "one false match in {} visits, with {} and {LOOKS_PER_VISIT} looks a visit, is one in {} comparisons: {source}",
    one_in(*per_visit), enrolled(*comparisons), one_in(per_comparison(*per_visit, *comparisons))
)]
pub struct ThresholdError {
    per_visit: f64,
    comparisons: usize,
    source: ManifestError,
}

impl Threshold {
    /// The threshold for a gallery in which a probe is compared with `comparisons` people or pictures. A distance given in the
    /// configuration is taken as it is: nothing is added or taken away for means of pictures either.
    ///
    /// # Errors
    /// The rate per comparison lies outside of what is known of this embedder.
    pub fn choose(
        embedder: &NetEntry,
        recognition: &RecognitionConfig,
        comparisons: usize,
    ) -> Result<Threshold, ThresholdError> {
        if let Some(single) = recognition.max_distance {
            return Ok(Threshold::given(embedder, single, comparisons));
        }
        let per_visit = recognition.false_match_rate.0;
        let rate = per_comparison(per_visit, comparisons);
        let point =
            embedder.operating_point(rate).map_err(|source| ThresholdError { per_visit, comparisons, source })?;
        Ok(Threshold {
            limits: Limits { single: point.distance, shrink: point.shrink },
            comparisons,
            per_visit: Some(per_visit),
            per_comparison: Some(rate),
            beyond_measured: false,
            set_by: Some(point.set_by.into()),
            evidence_ends: point.evidence_ends,
            own: None,
        })
    }

    /// A distance that was given, and the rate it stands for.
    fn given(embedder: &NetEntry, single: f32, comparisons: usize) -> Threshold {
        let limits = Limits { single, shrink: 0.0 };
        let given = Threshold { limits, ..Threshold::none(comparisons) };
        // A table of one group, of before there were populations, says nothing of others.
        if embedder.populations.is_empty() {
            return given;
        }
        if let Some(exceeded) = embedder.looser_than_measured(single) {
            return Threshold { per_comparison: Some(exceeded), beyond_measured: true, ..given };
        }
        let Some(rate) = embedder.rate_at(single) else { return given };
        Threshold { per_comparison: Some(rate.at_most), evidence_ends: rate.evidence_ends, ..given }
    }

    /// The limit that this door's own strangers set, where they lie nearer than the table says. A
    /// distance given in the configuration stays as it is.
    pub fn heeding(self, strangers: Option<&Fit>) -> Threshold {
        let by_table = self.limits.single;
        let limit = strangers.zip(self.per_visit).map(|(fit, rate)| fit.limit(rate, self.comparisons));
        let Some(own) = limit.filter(|own| own.tightens(by_table)) else { return self };
        let limits = Limits { single: own.limit, ..self.limits };
        Threshold { limits, own: Some(Own { by_table, visits: own.visits }), ..self }
    }

    /// The limits without the door's own evidence.
    pub fn by_table(&self) -> Limits {
        Limits { single: self.own.map_or(self.limits.single, |own| own.by_table), ..self.limits }
    }
}

impl Threshold {
    /// The share of strangers' visits that are taken for somebody: what was asked for, or what the
    /// distance that was set comes to. None: nothing was measured, or nothing so loose.
    pub fn rate_of_visits(&self) -> Option<f64> {
        let measured = self.per_comparison.filter(|_| !self.beyond_measured).map(|rate| self.of_visits(rate));
        self.per_visit.or(measured)
    }

    /// Who set the limit, and where the evidence ends.
    pub fn basis(&self) -> Option<String> {
        if let Some(Own { by_table, visits }) = self.own {
            return Some(format!("set by this door's own strangers ({visits} visits; the table says {by_table:.3})"));
        }
        let Some(set_by) = &self.set_by else {
            let EvidenceEnd { of, .. } = self.evidence_ends.as_ref()?;
            return Some(format!("set by recognition.max_distance; of {of} there is no evidence of a smaller rate"));
        };
        Some(match &self.evidence_ends {
            Some(EvidenceEnd { of, rate }) => {
                let whom = if **of == **set_by { ", of whom".to_owned() } else { format!("; of {of}") };
                format!("set by {set_by}{whom} there is no evidence beyond 1 in {} comparisons", one_in(*rate))
            }
            None => format!("set by {set_by}"),
        })
    }

    fn of_visits(&self, per_comparison: f64) -> f64 {
        (per_comparison * LOOKS_PER_VISIT * self.comparisons.max(1) as f64).min(1.0)
    }

    /// Of a door at which nothing is a match.
    pub fn none(comparisons: usize) -> Threshold {
        Threshold {
            limits: Limits { single: 0.0, shrink: 0.0 },
            comparisons,
            per_visit: None,
            per_comparison: None,
            beyond_measured: false,
            set_by: None,
            evidence_ends: None,
            own: None,
        }
    }
}

/// A door that knows nobody yet is prepared for the first.
fn per_comparison(per_visit: f64, comparisons: usize) -> f64 {
    per_visit / (LOOKS_PER_VISIT * comparisons.max(1) as f64)
}

fn enrolled(comparisons: usize) -> String {
    match comparisons {
        0 => "the first to be enrolled".to_owned(),
        comparisons => format!("{comparisons} enrolled"),
    }
}

/// The number in "one in so many", with three digits.
fn one_in(rate: f64) -> String {
    let number = 1.0 / rate;
    let unit = 10f64.powf((number.log10() - 2.0).floor()).max(1.0);
    format!("{:.0}", (number / unit).round() * unit)
}

impl fmt::Display for Threshold {
    /// As the log says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.limits.single <= 0.0 {
            return write!(f, "nothing is a match");
        }
        write!(f, "a match is nearer than {:.3}, ", self.limits.single)?;
        let Threshold { comparisons, per_visit, per_comparison, .. } = *self;
        let enrolled = enrolled(comparisons);
        match (per_visit, per_comparison) {
            (Some(per_visit), Some(rate)) => {
                write!(
                    f,
                    "so that 1 in {} visits of strangers is taken for somebody: {LOOKS_PER_VISIT} looks x {enrolled}, 1 in {} comparisons",
                    one_in(per_visit),
                    one_in(rate)
                )?;
            }
            (_, Some(rate)) => {
                let how = match &self.evidence_ends {
                    _ if self.beyond_measured => ", looser than was measured: more than",
                    Some(_) => ": at most",
                    None => ": about",
                };
                let (single, visits) = (one_in(rate), one_in(self.of_visits(rate)));
                write!(f, "set by recognition.max_distance{how} 1 in {single} comparisons, ")?;
                write!(f, "1 in {visits} visits of strangers with {enrolled}")?;
                let Some(EvidenceEnd { of, .. }) = &self.evidence_ends else { return Ok(()) };
                return write!(f, "; of {of} there is no evidence of a smaller rate");
            }
            (_, None) => write!(f, "set by recognition.max_distance; how sure that is was not measured")?,
        }
        self.basis().map_or(Ok(()), |basis| write!(f, "; {basis}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::manifest::Manifest;
    use std::path::Path;

    /// As it was measured on LFW alone.
    fn dlib() -> NetEntry {
        let mut dlib = shipped("dlib");
        dlib.populations.truncate(1);
        dlib
    }

    fn shipped(name: &str) -> NetEntry {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        Manifest::load(&models).unwrap().embedder(name).unwrap().clone()
    }

    /// The rate per comparison that is asked for is kept for each group that was measured.
    #[test]
    fn no_limit_is_looser_than_any_population_that_sets_one() {
        for name in ["mobilefacenet", "dlib-triplet", "dlib"] {
            let embedder = shipped(name);
            for people in [0, 1, 5, 50] {
                let threshold = Threshold::choose(&embedder, &wanted(1e-3), people).unwrap();
                let rate = threshold.per_comparison.unwrap();
                for population in embedder.populations.iter().filter(|population| population.sets_limit) {
                    let at_least = population.thresholds.iter().rev().find(|point| point.fmr >= rate);
                    let (limit, who) = (threshold.limits.single, &population.name);
                    assert!(at_least.is_none_or(|point| limit <= point.distance), "{name}, {people}: {limit} {who}");
                }
            }
            let said = Threshold::choose(&embedder, &wanted(1e-3), 1).unwrap().to_string();
            assert!(said.contains("; set by adults of nine groups"), "{said}");
            assert!(said.ends_with("no evidence beyond 1 in 1000 comparisons"), "{said}");
        }
    }

    fn wanted(rate: f64) -> RecognitionConfig {
        let mut recognition = RecognitionConfig::default();
        recognition.false_match_rate.0 = rate;
        recognition
    }

    /// Numbers from 0 to 1, the same in every run (Steele, Lea, Flood 2014: SplitMix64).
    struct Uniform(u64);

    impl Uniform {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// Strangers come to the door, each looked at so many times and compared with so many people, at distances drawn from the
    /// measured table: how many of them get in?
    #[test]
    fn strangers_get_in_as_rarely_as_was_asked_for() {
        let (embedder, mut uniform) = (dlib(), Uniform(1));
        for (rate, people) in [(1e-2, 1), (1e-2, 8), (1e-3, 4), (1e-3, 30)] {
            let threshold = Threshold::choose(&embedder, &wanted(rate), people).unwrap();
            let visits = (400.0 / rate) as usize;
            let mut let_in = 0;
            for _ in 0..visits {
                let chances = people * LOOKS_PER_VISIT as usize;
                // The rarest of that many distances; drawing it at once is drawing them all. Of those that lie above the table
                // none is a match.
                let rarest = 1.0 - uniform.next().powf(1.0 / chances as f64);
                let distance = if rarest > 1e-2 { 2.0 } else { embedder.distance_for(rarest.max(1e-8)).unwrap() };
                let_in += usize::from(distance <= threshold.limits.single);
            }
            let share = let_in as f64 / visits as f64;
            // 400 are expected: four standard errors are a fifth of it.
            assert!(share <= rate * 1.2 && share >= rate * 0.75, "{rate} with {people}: {share}");
        }
    }

    #[test]
    fn more_people_need_nearer_matches() {
        let limit = |people| Threshold::choose(&dlib(), &wanted(1e-3), people).unwrap().limits.single;
        assert_eq!(limit(0), limit(1), "a door that knows nobody is prepared for the first");
        assert!(limit(1) > limit(5) + 0.01 && limit(5) > limit(50) + 0.01);
        // 1e-3 over 3 looks and 10 people is 1 in 30,000.
        assert!((limit(10) - dlib().distance_for(1.0 / 30_000.0).unwrap()).abs() < 1e-6);
    }

    #[test]
    fn what_was_chosen_is_said_with_its_reason() {
        let said = Threshold::choose(&dlib(), &wanted(1e-3), 10).unwrap().to_string();
        for part in ["1 in 1000 visits", "3 looks x 10 enrolled", "1 in 30000 comparisons"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!said.contains("no evidence"));
        let fixed = RecognitionConfig { max_distance: Some(0.8), ..wanted(1e-3) };
        for recognition in [wanted(1e-3), fixed] {
            let nobody = Threshold::choose(&dlib(), &recognition, 0).unwrap().to_string();
            assert!(nobody.contains("the first to be enrolled") && !nobody.contains("inf"), "{nobody}");
        }
        let far = Threshold::choose(&dlib(), &wanted(1e-5), 10).unwrap();
        assert!(far.to_string().contains("no evidence beyond 1 in"), "{far}");
    }

    #[test]
    fn a_rate_out_of_reach_is_refused_with_numbers_and_remedy() {
        let error = Threshold::choose(&dlib(), &wanted(1e-7), 100).unwrap_err().to_string();
        for part in ["in 10000000 visits", "100 enrolled", "one in 3000000000 comparisons"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(error.contains("recognition.false_match_rate") && error.contains("max_distance"), "{error}");
    }

    #[test]
    fn a_distance_that_was_given_is_kept() {
        let recognition = RecognitionConfig { max_distance: Some(0.344), ..RecognitionConfig::default() };
        let threshold = Threshold::choose(&dlib(), &recognition, 10).unwrap();
        assert_eq!(threshold.limits, Limits { single: 0.344, shrink: 0.0 });
        let said = threshold.to_string();
        assert!(said.contains("1 in 10000 comparisons") && said.contains("1 in 333 visits"), "{said}");
        assert!((threshold.rate_of_visits().unwrap() - 3e-3).abs() < 1e-6);
    }

    #[test]
    fn of_a_distance_looser_than_measured_no_rate_is_claimed() {
        let recognition = RecognitionConfig { max_distance: Some(1.5), ..RecognitionConfig::default() };
        let threshold = Threshold::choose(&dlib(), &recognition, 1).unwrap();
        let said = threshold.to_string();
        assert!(said.contains("looser than was measured: more than 1 in 100 comparisons"), "{said}");
        assert_eq!(threshold.rate_of_visits(), None);
        // LFW's people were measured there, those who come nearest were not.
        let shipped = shipped("mobilefacenet");
        let loosest = shipped.thresholds[0].distance - 0.01;
        let recognition = RecognitionConfig { max_distance: Some(loosest), ..RecognitionConfig::default() };
        let threshold = Threshold::choose(&shipped, &recognition, 1).unwrap();
        assert!(threshold.beyond_measured && threshold.rate_of_visits().is_none(), "{threshold}");
    }

    #[test]
    fn without_populations_a_given_distance_claims_no_rate() {
        let mut embedder = dlib();
        embedder.populations.clear();
        let recognition = RecognitionConfig { max_distance: Some(0.344), ..RecognitionConfig::default() };
        let threshold = Threshold::choose(&embedder, &recognition, 1).unwrap();
        assert!(threshold.to_string().ends_with("how sure that is was not measured"), "{threshold}");
        assert_eq!((threshold.limits.single, threshold.rate_of_visits()), (0.344, None));
    }

    #[test]
    fn a_distance_nearer_than_the_evidence_says_at_most() {
        let recognition = RecognitionConfig { max_distance: Some(0.3), ..RecognitionConfig::default() };
        let threshold = Threshold::choose(&shipped("mobilefacenet"), &recognition, 1).unwrap();
        let said = threshold.to_string();
        assert!(said.contains(": at most 1 in 100 comparisons, 1 in 33 visits"), "{said}");
        assert!(said.ends_with("; of East Asian women (UTKFace) there is no evidence of a smaller rate"), "{said}");
        assert!(threshold.basis().unwrap().starts_with("set by recognition.max_distance; of East Asian women"));
    }

    #[test]
    fn seven_comparisons_are_no_evidence() {
        // 1 in 1,000,000 of LFW's 7.3 million, 6 pairs of people.
        let said = Threshold::choose(&dlib(), &wanted(1e-5), 2).unwrap().to_string();
        assert!(said.ends_with("set by LFW, of whom there is no evidence beyond 1 in 100000 comparisons"), "{said}");
    }

    #[test]
    fn it_is_said_where_the_evidence_of_other_people_ends() {
        // Here the table of the first population is the strictest: nothing is known of
        // the others.
        let said = Threshold::choose(&shipped("mobilefacenet"), &wanted(1e-5), 2).unwrap().to_string();
        let ending =
            "; set by LFW; of adults of nine groups (UTKFace) there is no evidence beyond 1 in 1000 comparisons";
        assert!(said.ends_with(ending), "{said}");
    }
}
