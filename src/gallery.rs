//! The templates of the people known, and the search for the nearest person. No threshold lives here.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::vision::{
    embed::Embedding,
    fuse::{Probe, fused},
    manifest::NetEntry,
    model::ModelId,
};

/// A person's number in the store. It stays when the person is renamed, and is not given again when the person is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PersonId(pub u32);

impl fmt::Display for PersonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The outcome of a search: the nearest person and the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    pub person: PersonId,
    /// Distance of the probe to that person, 0 to 2.
    pub distance: f32,
    /// How much was averaged out: the spread of the person's pictures and that of a fused probe's
    /// looks, added up (see [`fused`]). 0 where one picture is compared with one.
    pub spread: f32,
    /// The nearest of all other people, if there is one.
    pub runner_up: Option<(PersonId, f32)>,
}

/// One enrolled picture of a person, as an embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pub person: PersonId,
    pub embedding: Embedding,
}

/// How a person's several templates become one distance.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TemplateFusion {
    /// Distance to the unit-length mean of the person's templates.
    Mean,
    /// Distance to the nearest of them.
    Best,
}

/// The same for the pictures of one embedder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fusion {
    pub how: TemplateFusion,
    /// See [`fused`].
    pub one_moment: f32,
}

impl Fusion {
    /// As this embedder's pictures are fused.
    pub fn of(embedder: &NetEntry, how: TemplateFusion) -> Fusion {
        Fusion { how, one_moment: embedder.one_moment.unwrap_or(0.0) }
    }
}

/// Of an embedder whose one moment was not measured: every difference counts.
impl From<TemplateFusion> for Fusion {
    fn from(how: TemplateFusion) -> Fusion {
        Fusion { how, one_moment: 0.0 }
    }
}

/// Everybody who can be recognised, as one contiguous matrix of unit-length rows.
#[derive(Clone, Debug)]
pub struct Gallery {
    model: ModelId,
    /// Whose row each is.
    owners: Vec<PersonId>,
    /// Numbers in a row; never 0.
    dimension: usize,
    /// Row after row.
    values: Vec<f32>,
    /// Of each row; 0 where it is one picture.
    spreads: Vec<f32>,
    templates: usize,
}

impl Gallery {
    /// Lays out the templates that were made by `model`; those of any other model cannot be compared and are left out.
    pub fn new(model: ModelId, fusion: impl Into<Fusion>, templates: &[Template]) -> Gallery {
        let Fusion { how, one_moment } = fusion.into();
        let usable = || templates.iter().filter(|template| template.embedding.model() == model);
        // Without a template any dimension will do.
        let dimension = usable().next().map_or(1, |template| template.embedding.values().len()).max(1);
        let fitting = || usable().filter(|template| template.embedding.values().len() == dimension);
        let lines: Vec<(PersonId, Cow<'_, Embedding>, f32)> = match how {
            TemplateFusion::Best => fitting().map(|t| (t.person, Cow::Borrowed(&t.embedding), 0.0)).collect(),
            TemplateFusion::Mean => means(fitting(), one_moment),
        };
        let mut values = Vec::with_capacity(lines.len() * dimension);
        let (mut owners, mut spreads) = (Vec::with_capacity(lines.len()), Vec::with_capacity(lines.len()));
        for (person, embedding, spread) in lines {
            values.extend_from_slice(embedding.values());
            owners.push(person);
            spreads.push(spread);
        }
        Gallery { model, owners, dimension, values, spreads, templates: fitting().count() }
    }

    pub fn model(&self) -> ModelId {
        self.model
    }

    pub fn people(&self) -> usize {
        let mut owners = self.owners.clone();
        owners.sort_unstable();
        owners.dedup();
        owners.len()
    }

    /// What a probe is compared with: one mean per person, or every picture. A stranger has that many chances.
    pub fn comparisons(&self) -> usize {
        self.owners.len()
    }

    /// Templates that can be matched.
    pub fn templates(&self) -> usize {
        self.templates
    }

    /// What a probe is compared with, row by row: whose, the embedding, its spread.
    pub fn rows(&self) -> impl Iterator<Item = (PersonId, &[f32], f32)> + Clone {
        let rows = self.values.chunks_exact(self.dimension);
        rows.zip(&self.owners).zip(&self.spreads).map(|((row, &person), &spread)| (person, row, spread))
    }

    /// As [`Gallery::search`], for a fused probe.
    pub fn search_fused(&self, probe: &Probe) -> Option<Match> {
        let matched = self.search(&probe.embedding)?;
        Some(Match { spread: matched.spread + probe.spread, ..matched })
    }

    /// The person nearest to the probe and the next nearest other person. None when nobody is enrolled or the probe is of another model.
    pub fn search(&self, probe: &Embedding) -> Option<Match> {
        if probe.model() != self.model || probe.values().len() != self.dimension {
            return None;
        }
        // Of unit vectors the nearest is the one with the largest inner product: |a − b|² = 2 − 2 a·b.
        let likeness = self.values.chunks_exact(self.dimension).map(|row| inner_product(row, probe.values()));
        let (mut leaders, mut least) = (Leaders::default(), f32::NEG_INFINITY);
        for (row, value) in likeness.enumerate() {
            // Of nearly every row this is all that is asked.
            if value > least {
                leaders.admit(row, value, &self.owners);
                least = leaders.runner_up.map_or(f32::NEG_INFINITY, |(_, value)| value);
            }
        }
        // The distance itself is summed up anew: 2 − 2 a·b loses digits where it matters, near 0.
        let distance = |row: usize| {
            let line = &self.values[row * self.dimension..][..self.dimension];
            let square = line.iter().zip(probe.values()).map(|(a, b)| (a - b) * (a - b));
            square.sum::<f32>().sqrt()
        };
        leaders.nearest.map(|(row, _)| Match {
            person: self.owners[row],
            distance: distance(row),
            spread: self.spreads[row],
            runner_up: leaders.runner_up.map(|(row, _)| (self.owners[row], distance(row))),
        })
    }
}

/// The rows most like the probe, of two people, and their likeness.
#[derive(Default)]
struct Leaders {
    nearest: Option<(usize, f32)>,
    /// Of any other person.
    runner_up: Option<(usize, f32)>,
}

impl Leaders {
    // Kept out of the loop that calls it, whose few registers it would take.
    #[cold]
    #[inline(never)]
    fn admit(&mut self, row: usize, value: f32, owners: &[PersonId]) {
        let same_person = self.nearest.is_some_and(|(best, _)| owners[best] == owners[row]);
        if self.nearest.is_none_or(|(_, best)| value > best) {
            if !same_person {
                self.runner_up = self.nearest;
            }
            self.nearest = Some((row, value));
        } else if !same_person && self.runner_up.is_none_or(|(_, next)| value > next) {
            self.runner_up = Some((row, value));
        }
    }
}

/// Numbers that are multiplied at once. They are added up apart, so that the compiler may use vector registers for them: in a single sum
/// of floating-point numbers it has to keep the order. Eight fill two registers of SSE2 or NEON, and the memory is what limits then.
const LANES: usize = 8;

fn inner_product(row: &[f32], probe: &[f32]) -> f32 {
    let ((rows, row_rest), (probes, probe_rest)) = (row.as_chunks::<LANES>(), probe.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in rows.iter().zip(probes) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = row_rest.iter().zip(probe_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Unit-length means with their spread, one line per person in the order of their numbers. Templates that cancel each other out have
/// no mean direction; such a person, whom no real pictures make, is left out.
fn means<'a>(
    templates: impl Iterator<Item = &'a Template>,
    one_moment: f32,
) -> Vec<(PersonId, Cow<'a, Embedding>, f32)> {
    let mut people: BTreeMap<PersonId, Vec<&Embedding>> = BTreeMap::new();
    for template in templates {
        people.entry(template.person).or_default().push(&template.embedding);
    }
    let line = |(person, embeddings): (PersonId, Vec<&Embedding>)| {
        let (mean, spread) = fused(embeddings, one_moment).ok()?;
        Some((person, Cow::Owned(mean), spread))
    };
    people.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Limits;
    use proptest::prelude::*;

    const MODEL: ModelId = ModelId([7; 16]);
    const OTHER_MODEL: ModelId = ModelId([8; 16]);

    /// Numbers in the embeddings of the property: two full chunks of a search and a rest.
    const DIMENSION: usize = 2 * LANES + 3;

    fn values() -> impl Strategy<Value = [f32; DIMENSION]> {
        proptest::array::uniform(-1f32..1.0)
            .prop_filter("it has no direction", |values| values.iter().any(|v| v.abs() > 0.1))
    }

    fn template(person: u32, values: &[f32]) -> Template {
        Template { person: PersonId(person), embedding: Embedding::new(values.to_vec(), MODEL).unwrap() }
    }

    fn templates() -> impl Strategy<Value = Vec<Template>> {
        let one = (0u32..5, values());
        proptest::collection::vec(one.prop_map(|(person, values)| template(person, &values)), 0..30)
    }

    /// By the definition: each person's distance, sorted.
    fn naive(templates: &[Template], fusion: TemplateFusion, probe: &Embedding) -> Vec<(PersonId, f32)> {
        let mut people: Vec<PersonId> = templates.iter().map(|t| t.person).collect();
        people.sort();
        people.dedup();
        let mut distances: Vec<(PersonId, f32)> = people
            .into_iter()
            .map(|person| {
                let of = || templates.iter().filter(|t| t.person == person).map(|t| &t.embedding);
                let distance = match fusion {
                    TemplateFusion::Best => of().map(|e| e.distance(probe).unwrap()).fold(f32::INFINITY, f32::min),
                    TemplateFusion::Mean => {
                        let sum = (0..DIMENSION).map(|i| of().map(|e| e.values()[i]).sum()).collect();
                        Embedding::new(sum, MODEL).unwrap().distance(probe).unwrap()
                    }
                };
                (person, distance)
            })
            .collect();
        distances.sort_by(|a, b| a.1.total_cmp(&b.1));
        distances
    }

    proptest! {
        #[test]
        fn the_search_finds_what_the_naive_one_finds(templates in templates(), probe in values()) {
            let probe = Embedding::new(probe.to_vec(), MODEL).unwrap();
            for fusion in [TemplateFusion::Best, TemplateFusion::Mean] {
                let found = Gallery::new(MODEL, fusion, &templates).search(&probe);
                let expected = naive(&templates, fusion, &probe);
                prop_assert_eq!(found.is_some(), !expected.is_empty());
                if let Some(found) = found {
                    prop_assert!((found.distance - expected[0].1).abs() < 1e-4);
                    prop_assert_eq!(found.runner_up.is_some(), expected.len() > 1);
                    if let Some((person, distance)) = found.runner_up {
                        prop_assert!((distance - expected[1].1).abs() < 1e-4);
                        prop_assert_ne!(person, found.person, "the runner-up is another person");
                    }
                }
            }
        }
    }

    const ONE_MOMENT: f32 = 0.4;

    /// Three pictures of one person, up to twice `wide` apart, and a probe.
    fn three_and_a_probe(wide: f32) -> impl Strategy<Value = ([Template; 3], Embedding)> {
        (values(), proptest::array::uniform3(values()), values(), 0.01..wide, 0f32..1.0).prop_map(
            |(middle, noise, away, wide, far)| {
                let unit = |values: [f32; DIMENSION]| Embedding::new(values.to_vec(), MODEL).unwrap();
                let middle = unit(middle);
                let mixed = |by, share| {
                    let by = unit(by);
                    let values = middle.values().iter().zip(by.values()).map(|(own, by)| own + share * by);
                    Embedding::new(values.collect(), MODEL).unwrap()
                };
                let template = |noise| Template { person: PersonId(1), embedding: mixed(noise, wide) };
                (noise.map(template), mixed(away, far))
            },
        )
    }

    /// Whether a door that knows one person by these pictures takes the probe for that person.
    fn matches(pictures: &[Template], probe: &Embedding, limits: Limits) -> bool {
        let fusion = Fusion { how: TemplateFusion::Mean, one_moment: ONE_MOMENT };
        let found = Gallery::new(MODEL, fusion, pictures).search(probe).unwrap();
        found.distance <= limits.at(found.spread) + 1e-5
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn three_pictures_of_one_moment_are_never_worse_than_one(
            (pictures, probe) in three_and_a_probe(ONE_MOMENT / 2.1), single in 0.3f32..1.2, shrink in 0f32..=1.0,
        ) {
            // They are as near as one picture is on average.
            let square = |picture: &Template| picture.embedding.distance(&probe).unwrap().powi(2);
            let average = pictures.iter().map(square).sum::<f32>() / 3.0;
            let limits = Limits { single, shrink };
            prop_assert!(average > single * single || matches(&pictures, &probe, limits));
        }

        #[test]
        fn pictures_that_match_one_by_one_match_together(
            (pictures, probe) in three_and_a_probe(0.9), single in 0.3f32..1.4, shrink in 0f32..=1.0,
        ) {
            let limits = Limits { single, shrink };
            let each = pictures.iter().all(|picture| matches(std::slice::from_ref(picture), &probe, limits));
            prop_assert!(!each || matches(&pictures, &probe, limits));
        }
    }

    #[test]
    fn templates_of_another_model_never_match() {
        let stranger = Embedding::new(vec![1.0, 0.0], OTHER_MODEL).unwrap();
        let mixed = [template(1, &[1.0, 0.0]), Template { person: PersonId(2), embedding: stranger.clone() }];
        let gallery = Gallery::new(MODEL, TemplateFusion::Mean, &mixed);
        assert_eq!((gallery.people(), gallery.templates()), (1, 1));
        assert_eq!(gallery.search(&stranger), None, "a probe of another model finds nobody");
        let own = Embedding::new(vec![0.0, 1.0], MODEL).unwrap();
        assert_eq!(gallery.search(&own).unwrap().runner_up, None, "and person 2 is not there at all");
    }

    #[test]
    fn an_empty_gallery_knows_nobody() {
        let probe = Embedding::new(vec![1.0, 0.0], MODEL).unwrap();
        assert_eq!(Gallery::new(MODEL, TemplateFusion::Mean, &[]).search(&probe), None);
    }
}
