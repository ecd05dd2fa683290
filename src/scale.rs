//! The distances of an embedder besides that of a match: what is one person's picture, how far
//! the next person has to be, what is one face in a track, what is one moment.
//!
//! Each is what the configuration says, else what the manifest says. Of an embedder for which it
//! was not measured it follows from the limit of a match, on the strict side.

use crate::{
    config::Config,
    threshold::{Threshold, ThresholdError},
    vision::manifest::NetEntry,
};

/// Where no margin was measured: this share of a match's limit, about twice that of the
/// shipped embedders.
const STRICT_MARGIN: f32 = 0.25;
/// The same of what is one face in a track: looks that are farther apart are not averaged.
const STRICT_FACE: f32 = 0.8;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// A picture this far from a person's other pictures on average is taken for another's.
    pub max_spread: f32,
    /// How much farther than the nearest person the next one has to be.
    pub margin: f32,
    /// Two looks at a track this far apart are not of one face.
    pub same_face: f32,
    /// Pictures this near to each other show one moment; None: not measured.
    pub one_moment: Option<f32>,
    /// Keys that neither configuration nor manifest gives.
    pub missing: Vec<&'static str>,
}

impl Scale {
    /// # Errors
    /// There is no limit of a match to go by.
    pub fn of(embedder: &NetEntry, config: &Config) -> Result<Scale, ThresholdError> {
        // For the first person enrolled: the limit for more is smaller.
        let limit = Threshold::choose(embedder, &config.recognition, 0)?.limits.single;
        let mut missing = Vec::new();
        let mut choose = |key, configured: Option<f32>, measured: Option<f32>, strict: f32| {
            configured.or(measured).unwrap_or_else(|| {
                missing.push(key);
                strict
            })
        };
        Ok(Scale {
            max_spread: choose("max_spread", config.enroll.max_spread, embedder.max_spread, limit),
            margin: choose("margin", config.recognition.margin, embedder.margin, limit * STRICT_MARGIN),
            same_face: choose("same_face", None, embedder.same_face, limit * STRICT_FACE),
            one_moment: embedder.one_moment,
            missing,
        })
    }

    /// What was not measured of this embedder, what stands in for it, and the remedy.
    pub fn warning(&self, embedder: &NetEntry) -> Option<String> {
        let keys = self.missing.join(", ");
        (!self.missing.is_empty()).then(|| {
            format!(
                "embedder {}: {} has no {keys}; stricter values stand in for them, which refuse more; \
                 facelatch eval measures them",
                embedder.name,
                embedder.listed_in.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::vision::manifest::Manifest;

    fn shipped(name: &str) -> NetEntry {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        Manifest::load(&models).unwrap().embedder(name).unwrap().clone()
    }

    #[test]
    fn every_shipped_embedder_brings_its_own_distances() {
        let of = |name| Scale::of(&shipped(name), &Config::default()).unwrap();
        for name in ["mobilefacenet", "dlib-triplet", "dlib"] {
            let (embedder, scale) = (shipped(name), of(name));
            assert_eq!((scale.max_spread, scale.margin), (embedder.max_spread.unwrap(), embedder.margin.unwrap()));
            assert_eq!((scale.same_face, scale.one_moment), (embedder.same_face.unwrap(), embedder.one_moment));
            assert!(scale.warning(&embedder).is_none() && embedder.one_moment.is_some(), "{name}");
        }
        assert!(of("dlib").max_spread < 0.5 * of("mobilefacenet").max_spread);
    }

    #[test]
    fn the_configuration_goes_before_the_manifest() {
        let mut config = Config::default();
        (config.enroll.max_spread, config.recognition.margin) = (Some(0.7), Some(0.0));
        let scale = Scale::of(&shipped("mobilefacenet"), &config).unwrap();
        assert_eq!((scale.max_spread, scale.margin), (0.7, 0.0));
    }

    #[test]
    fn what_was_not_measured_is_strict_and_said_with_its_file() {
        for name in ["mobilefacenet", "dlib-triplet", "dlib"] {
            let known = Scale::of(&shipped(name), &Config::default()).unwrap();
            let mut bare = shipped(name);
            (bare.max_spread, bare.margin, bare.same_face, bare.one_moment) = (None, None, None, None);
            let strict = Scale::of(&bare, &Config::default()).unwrap();
            assert!(strict.max_spread < known.max_spread && strict.margin > known.margin, "{strict:?}");
            assert!(strict.same_face <= known.same_face && strict.one_moment.is_none(), "{strict:?}");
            let warning = strict.warning(&bare).unwrap();
            for part in ["max_spread, margin, same_face", "models.toml", "facelatch eval"] {
                assert!(warning.contains(part), "{warning}");
            }
        }
    }
}
