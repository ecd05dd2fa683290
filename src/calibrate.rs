//! What the threshold means for the people who are really enrolled: pure numbers, from their templates.
//!
//! Distances are given as if one picture were compared with one (see [`Limits::as_single`]), so that people with many pictures and
//! with one stand on the same scale, and one limit goes through it. A genuine distance is that of a picture to the person's other
//! pictures, an impostor's that of a picture to somebody else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    evidence::OwnLimit,
    gallery::{Fusion, Gallery, PersonId, Template},
    policy::Limits,
    vision::model::ModelId,
};

/// Width of a histogram's bin, as a distance, and their number. Strangers lie around √2
/// of each other where embeddings are spread evenly; hardly any lie beyond the last bin.
pub const BIN: f32 = 0.02;
const BINS: usize = 90;
/// Fewer pictures of a person do not show how that person looks on another day.
const ENOUGH_PICTURES: usize = 3;
/// The nearest pairs that are listed, whether they are at risk or not.
const LISTED_PAIRS: usize = 5;

/// A picture that is enrolled, and whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Relative to the enroll folder.
    pub path: String,
    pub template: Template,
}

/// Two people and how far apart what they are known by is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    pub one: String,
    pub other: String,
    pub distance: f32,
}

/// A picture of somebody, and how near it is to somebody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Likeness {
    pub picture: String,
    pub person: String,
    pub distance: f32,
}

/// Somebody who will often be left outside, why, and how to mend it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weakness {
    pub person: String,
    pub problem: String,
    pub remedy: String,
}

/// How many distances fall into each [`BIN`], from 0 on; the last one has all that are larger.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram(pub Vec<u32>);

impl Histogram {
    fn of(distances: impl Iterator<Item = f32>) -> Histogram {
        let mut bins = vec![0; BINS];
        distances.for_each(|distance| bins[((distance / BIN) as usize).min(BINS - 1)] += 1);
        Histogram(bins)
    }

    /// Of bins of [`crate::evidence::BIN`].
    pub fn of_nearness(bins: &BTreeMap<u8, u32>) -> Histogram {
        let each = bins.iter().map(|(bin, count)| ((f32::from(*bin) + 0.5) * crate::evidence::BIN, *count));
        let mut histogram = Histogram::of([].into_iter());
        for (distance, count) in each {
            let sum = &mut histogram.0[((distance / BIN) as usize).min(BINS - 1)];
            *sum = sum.saturating_add(count);
        }
        histogram
    }

    pub fn total(&self) -> u32 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    pub people: usize,
    pub pictures: usize,
    /// The limit in force.
    pub limit: f32,
    /// Where the limit comes from, in words.
    pub reason: String,
    /// The largest limit at which strangers are taken for somebody as rarely as is asked for, from the model's measured table. None:
    /// there is no such table, or the rate is beyond it.
    pub stranger_ceiling: Option<f32>,
    /// Each picture of people with several against the person's other pictures, the farthest first.
    pub genuine: Vec<Likeness>,
    pub genuine_distances: Histogram,
    /// Each picture against everybody else.
    pub impostor_distances: Histogram,
    /// The nearest pairs of people, and all that are nearer than the limit.
    pub pairs: Vec<Pair>,
    /// Pictures of one person that would be a match with another, the nearest first.
    pub at_risk: Vec<Likeness>,
    pub weak: Vec<Weakness>,
    /// Pictures of strangers and whom they are nearest to, the nearest first.
    pub strangers: Vec<Likeness>,
    pub at_door: AtDoor,
}

/// How near strangers came to this door, see [`crate::evidence`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AtDoor {
    /// Visits, by the distance at which each would have been let in.
    pub visits: u32,
    pub distances: Histogram,
    /// The limit these visits speak for; None: there is none yet, or the model has no table.
    pub own: Option<OwnLimit>,
    /// The model's.
    pub table: Option<f32>,
    /// The limit in force is the door's own.
    pub in_force: bool,
    /// The limit was given in the configuration: the door's own never comes into force.
    #[serde(default)]
    pub given: bool,
    /// Visits counted with another model or precision; they are not used.
    pub visits_of_other_models: u32,
    /// Days whose record was damaged; they are set aside.
    pub damaged_days: usize,
}

impl Calibration {
    /// Looks at the pictures enrolled, those of `model`, as the daemon fuses them. `name` says what a person is called.
    pub fn of(
        model: ModelId,
        fusion: impl Into<Fusion>,
        pictures: &[Picture],
        limits: Limits,
        name: impl Fn(PersonId) -> String,
    ) -> Calibration {
        let fusion = fusion.into();
        let templates: Vec<Template> = pictures.iter().map(|picture| picture.template.clone()).collect();
        let gallery = Gallery::new(model, fusion, &templates);
        let mut of_person: BTreeMap<PersonId, Vec<&Picture>> = BTreeMap::new();
        for picture in pictures.iter().filter(|picture| picture.template.embedding.model() == model) {
            of_person.entry(picture.template.person).or_default().push(picture);
        }
        let mut genuine = Vec::new();
        let mut impostor = Vec::new();
        let mut at_risk = Vec::new();
        for (&person, own) in &of_person {
            for (left_out, picture) in own.iter().enumerate() {
                let likeness =
                    |person, distance| Likeness { picture: picture.path.clone(), person: name(person), distance };
                let others = own.iter().enumerate().filter(|(i, _)| *i != left_out);
                let others: Vec<Template> = others.map(|(_, other)| other.template.clone()).collect();
                let rest = Gallery::new(model, fusion, &others);
                genuine
                    .extend(nearest(&rest, picture, limits, |_| true).map(|(_, distance)| likeness(person, distance)));
                impostor.extend(distances(&gallery, picture, limits, |other| other != person).map(|(_, d)| d));
                let taken_for = nearest(&gallery, picture, limits, |other| other != person);
                at_risk.extend(
                    taken_for
                        .filter(|(_, distance)| *distance <= limits.single)
                        .map(|(other, distance)| likeness(other, distance)),
                );
            }
        }
        genuine.sort_by(|a, b| b.distance.total_cmp(&a.distance));
        at_risk.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        let mut pairs = pairs(&gallery, limits, f32::INFINITY);
        let listed = pairs.iter().filter(|(.., distance)| *distance <= limits.single).count().max(LISTED_PAIRS);
        pairs.truncate(listed);
        let pair = |(one, other, distance)| Pair { one: name(one), other: name(other), distance };
        Calibration {
            people: of_person.len(),
            pictures: of_person.values().map(Vec::len).sum(),
            limit: limits.single,
            reason: String::new(),
            stranger_ceiling: None,
            genuine_distances: Histogram::of(genuine.iter().map(|likeness| likeness.distance)),
            impostor_distances: Histogram::of(impostor.into_iter()),
            pairs: pairs.into_iter().map(pair).collect(),
            weak: of_person.iter().flat_map(|(&person, own)| weakness(&name(person), own, &genuine, limits)).collect(),
            genuine,
            at_risk,
            strangers: Vec::new(),
            at_door: AtDoor::default(),
        }
    }

    /// Takes pictures of strangers into account.
    pub fn add_strangers(&mut self, strangers: Vec<Likeness>) {
        self.strangers.extend(strangers);
        self.strangers.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    }

    /// The largest limit that everything seen allows, and what sets it: it has to lie below. None: nothing was seen.
    pub fn allowed(&self) -> Option<(f32, String)> {
        let table = self.stranger_ceiling.map(|limit| (limit, "the measured table of the model".to_owned()));
        let pair =
            self.pairs.first().map(|pair| (pair.distance, format!("{} and {} are that near", pair.one, pair.other)));
        let stranger = self.strangers.first().map(|stranger| {
            (stranger.distance, format!("the stranger on {} is that near to {}", stranger.picture, stranger.person))
        });
        [table, pair, stranger].into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// Share of genuine comparisons within a limit; None: nobody has two pictures.
    pub fn known_within(&self, limit: f32) -> Option<f64> {
        let within = self.genuine.iter().filter(|likeness| likeness.distance <= limit).count();
        (!self.genuine.is_empty()).then(|| within as f64 / self.genuine.len() as f64)
    }
}

/// People nearer to each other than the limit, two by two, the nearest first: either may
/// be taken for the other.
pub fn confusable(gallery: &Gallery, limits: Limits) -> Vec<(PersonId, PersonId, f32)> {
    pairs(gallery, limits, limits.single)
}

/// As [`confusable`], no farther apart than `most`.
pub fn closer_than(gallery: &Gallery, limits: Limits, most: f32) -> Vec<(PersonId, PersonId, f32)> {
    if limits.single > 0.0 { pairs(gallery, limits, most) } else { Vec::new() }
}

/// Each two people no farther apart than `most`, and the least distance between what they
/// are known by, the nearest first.
fn pairs(gallery: &Gallery, limits: Limits, most: f32) -> Vec<(PersonId, PersonId, f32)> {
    let mut least: BTreeMap<(PersonId, PersonId), f32> = BTreeMap::new();
    for (i, (one, a, spread)) in gallery.rows().enumerate() {
        for (other, b, other_spread) in gallery.rows().skip(i + 1).filter(|(other, ..)| *other != one) {
            let distance = limits.apart(a, b, spread + other_spread);
            if distance > most {
                continue;
            }
            let pair = least.entry((one.min(other), one.max(other))).or_insert(distance);
            *pair = pair.min(distance);
        }
    }
    let mut pairs: Vec<_> = least.into_iter().map(|((one, other), distance)| (one, other, distance)).collect();
    pairs.sort_by(|a, b| a.2.total_cmp(&b.2));
    pairs
}

/// The picture's distance to each row of the gallery that belongs to one of these people.
fn distances<'a>(
    gallery: &'a Gallery,
    picture: &'a Picture,
    limits: Limits,
    of: impl Fn(PersonId) -> bool + 'a,
) -> impl Iterator<Item = (PersonId, f32)> + 'a {
    let probe = picture.template.embedding.values();
    let rows = gallery.rows().filter(move |(person, ..)| of(*person));
    rows.map(move |(person, row, spread)| (person, limits.apart(row, probe, spread)))
}

fn nearest<'a>(
    gallery: &'a Gallery,
    picture: &'a Picture,
    limits: Limits,
    of: impl Fn(PersonId) -> bool + 'a,
) -> Option<(PersonId, f32)> {
    distances(gallery, picture, limits, of).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// What is wrong with one person's pictures.
fn weakness(name: &str, own: &[&Picture], genuine: &[Likeness], limits: Limits) -> Vec<Weakness> {
    let weakness = |problem: String, remedy: &str| Weakness { person: name.into(), problem, remedy: remedy.into() };
    let far: Vec<&Likeness> = genuine
        .iter()
        .filter(|likeness| likeness.distance > limits.single && own.iter().any(|p| p.path == likeness.picture))
        .collect();
    let mut found = Vec::new();
    if own.len() < ENOUGH_PICTURES {
        let count = if own.len() == 1 { "one picture".to_owned() } else { format!("{} pictures", own.len()) };
        found.push(weakness(
            format!("enrolled with {count} only"),
            "add pictures of other days and in other light, best taken by the door's own camera, until there are three or more",
        ));
    }
    if far.is_empty() {
        return found;
    }
    // Of two pictures that are far apart nobody can say which is the bad one.
    if let [one, other] = own {
        let (distance, limit) = (far[0].distance, limits.single);
        found.push(weakness(
            format!("{} and {} are {distance:.3} apart, the limit is {limit:.3}", one.path, other.path),
            "add a third picture; if both show this person, it is known on either then",
        ));
        return found;
    }
    let list: Vec<String> = far.iter().map(|far| format!("{} by {:.3}", far.picture, far.distance)).collect();
    found.push(weakness(
        format!("farther from this person's other pictures than the limit, {:.3}: {}", limits.single, list.join(", ")),
        "are they good pictures, and of this person? Take them away, or add more in which the person looks like that",
    ));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gallery::TemplateFusion;
    use crate::vision::embed::Embedding;

    const MODEL: ModelId = ModelId([1; 16]);
    const LIMITS: Limits = Limits { single: 0.35, shrink: 0.6 };
    const NAMES: [&str; 4] = ["Ada", "Grace", "Joan", "Mary"];

    /// People as lists of angles on a circle; the distance of two pictures is nearly the difference of their angles.
    fn pictures(people: &[&[f32]]) -> Vec<Picture> {
        let picture = |person: usize, i: usize, angle: f32| Picture {
            path: format!("{}/{i}.jpg", NAMES[person]),
            template: Template {
                person: PersonId(person as u32),
                embedding: Embedding::new(vec![angle.cos(), angle.sin(), 0.0], MODEL).unwrap(),
            },
        };
        let of = |(person, angles): (usize, &&[f32])| {
            angles.iter().enumerate().map(|(i, angle)| picture(person, i, *angle)).collect::<Vec<_>>()
        };
        people.iter().enumerate().flat_map(of).collect()
    }

    fn calibrate(people: &[&[f32]]) -> Calibration {
        calibrate_fusing(TemplateFusion::Mean, people)
    }

    fn calibrate_fusing(fusion: TemplateFusion, people: &[&[f32]]) -> Calibration {
        Calibration::of(MODEL, fusion, &pictures(people), LIMITS, |person| NAMES[person.0 as usize].to_owned())
    }

    fn about(value: f32, expected: f32) -> bool {
        (value - expected).abs() < 0.01
    }

    #[test]
    fn genuine_distances_leave_the_picture_itself_out() {
        let found = calibrate(&[&[0.0, 0.1, 0.2], &[1.5]]);
        let distances: Vec<(&str, f32)> =
            found.genuine.iter().map(|l| (l.picture.as_str(), (l.distance * 100.0).round() / 100.0)).collect();
        // To the mean of the two others: the outer ones 0.15 from a mean with a spread of 0.05², the middle one 0 from one of 0.1².
        assert_eq!(distances, [("Ada/0.jpg", 0.15), ("Ada/2.jpg", 0.15), ("Ada/1.jpg", 0.08)]);
        assert_eq!((found.people, found.pictures, found.genuine_distances.total()), (2, 4, 3));
        assert_eq!(found.impostor_distances.total(), 4, "each picture against the one other person");
        assert_eq!(found.known_within(0.1), Some(1.0 / 3.0));
    }

    #[test]
    fn strangers_of_every_shipped_embedder_fit_the_histogram() {
        // Centre and width of distances of different people: docs/door-evidence.md.
        let (nearest, farthest) = (1.41 - 3.0 * 0.104, 1.41 + 3.0 * 0.104);
        let bins = Histogram::of([nearest, 1.41, farthest].into_iter()).0;
        let last = bins.len() - 1;
        assert!(bins[last] == 0 && bins.iter().filter(|count| **count == 1).count() == 3, "{bins:?}");
        let at_door = BTreeMap::from([(125, 1), (141, u32::MAX), (142, u32::MAX), (255, 2)]);
        let histogram = Histogram::of_nearness(&at_door);
        assert_eq!((histogram.0[62], histogram.0[last], histogram.total()), (1, 2, u32::MAX));
    }

    #[test]
    fn the_closest_pair_bounds_the_limit() {
        let mut found = calibrate(&[&[0.0], &[0.9], &[1.3]]);
        let nearest = &found.pairs[0];
        assert!(nearest.one == "Grace" && nearest.other == "Joan" && about(nearest.distance, 0.4), "{nearest:?}");
        assert_eq!((found.pairs.len(), found.at_risk.len()), (3, 0));
        assert!(about(found.allowed().unwrap().0, 0.4));
        found.stranger_ceiling = Some(0.33);
        assert_eq!(found.allowed().unwrap().0, 0.33);
        let stranger = |person: &str, distance| Likeness { picture: "x.jpg".into(), person: person.into(), distance };
        found.add_strangers(vec![stranger("Joan", 0.5), stranger("Ada", 0.31)]);
        let (limit, because) = found.allowed().unwrap();
        assert!(limit == 0.31 && because.contains("x.jpg") && because.contains("Ada"), "{because}");
    }

    #[test]
    fn people_who_look_alike_are_named_with_the_pictures_that_do() {
        let found = calibrate(&[&[0.0, 0.02], &[0.3], &[2.0]]);
        let named: Vec<(&str, &str)> = found.at_risk.iter().map(|l| (l.picture.as_str(), l.person.as_str())).collect();
        assert_eq!(named, [("Ada/1.jpg", "Grace"), ("Grace/0.jpg", "Ada"), ("Ada/0.jpg", "Grace")]);
        let all = pictures(&[&[0.0, 0.02], &[0.3], &[2.0]]);
        let templates: Vec<Template> = all.into_iter().map(|picture| picture.template).collect();
        let gallery = Gallery::new(MODEL, TemplateFusion::Mean, &templates);
        let (one, other, distance) = confusable(&gallery, LIMITS)[0];
        assert!((one, other) == (PersonId(0), PersonId(1)) && about(distance, 0.29), "{distance}");
        assert_eq!(confusable(&gallery, Limits { single: 0.28, ..LIMITS }), []);
    }

    #[test]
    fn who_is_enrolled_too_weakly_is_told_how_to_mend_it() {
        let found = calibrate(&[&[0.0], &[1.0, 1.4], &[2.0, 2.05, 2.1, 2.6], &[-1.0, -1.1, -0.9]]);
        let said = |name: &str| {
            let of: Vec<String> = found.weak.iter().filter(|w| w.person == name).map(|w| w.problem.clone()).collect();
            of.join("; ")
        };
        assert_eq!(said("Ada"), "enrolled with one picture only");
        let grace = said("Grace");
        assert!(grace.starts_with("enrolled with 2 pictures only; Grace/0.jpg and Grace/1.jpg are 0.39"), "{grace}");
        let joan = said("Joan");
        assert!(
            joan.starts_with("farther") && joan.contains(": Joan/3.jpg by 0.5") && !joan.contains("0.jpg"),
            "{joan}"
        );
        assert_eq!(said("Mary"), "");
    }

    #[test]
    fn compared_with_the_nearest_picture_when_so_configured() {
        let found = calibrate_fusing(TemplateFusion::Best, &[&[0.0, 0.1, 0.5], &[0.8]]);
        assert!(about(found.pairs[0].distance, 0.3), "{:?}", found.pairs);
        let farthest = &found.genuine[0];
        assert!(farthest.picture == "Ada/2.jpg" && about(farthest.distance, 0.4), "{farthest:?}");
    }

    #[test]
    fn nobody_one_person_and_other_models_are_no_trouble() {
        let found = calibrate(&[]);
        assert_eq!((found.people, found.allowed(), found.known_within(1.0)), (0, None, None));
        let found = calibrate(&[&[0.0, 0.1]]);
        assert_eq!((found.pairs.len(), found.impostor_distances.total(), found.genuine.len()), (0, 0, 2));
        let other = ModelId([2; 16]);
        let found = Calibration::of(other, TemplateFusion::Mean, &pictures(&[&[0.0, 0.1]]), LIMITS, |_| String::new());
        assert_eq!((found.people, found.genuine.len()), (0, 0), "templates of another model are left out");
    }
}
