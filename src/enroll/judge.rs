//! Whose pictures the folder holds: judged by everything that lies in it, never by the
//! order it came in.
//!
//! A person is the largest group of pictures that resemble each other, and those whose owner
//! confirms by the file's name that they show the same person. A person whom
//! the door could take for another is refused, by the threshold in force for the number
//! of people then.

use std::collections::BTreeMap;

use super::{Refusal, confirmed};
use crate::{
    gallery::{Fusion, TemplateFusion},
    policy::Limits,
    vision::{embed::Embedding, fuse::fused},
};

/// The limits for a gallery of this many comparisons, or why there are none.
pub type LimitsFor = Box<dyn Fn(usize) -> Result<Limits, String> + Send + Sync>;

/// What pictures are judged by.
pub struct Standard {
    /// Largest distance of a picture from the person's other pictures, on average.
    pub max_spread: f32,
    pub fusion: Fusion,
    pub limits: LimitsFor,
}

/// A face that a picture of the folder shows.
#[derive(Clone, Debug)]
pub(super) struct Face<'a> {
    /// The picture, relative to the folder.
    pub key: &'a str,
    pub sha256: [u8; 32],
    pub embedding: Embedding,
    /// Accepted under this name before.
    pub enrolled: bool,
}

impl Face<'_> {
    fn is_confirmed(&self) -> bool {
        confirmed::is(self.key)
    }
}

/// Who is who.
#[derive(Debug, Default)]
pub(super) struct Judgement<'a> {
    /// The pictures accepted, by name, in the order of their keys.
    pub people: BTreeMap<&'a str, Vec<&'a Face<'a>>>,
    /// By key.
    pub refused: BTreeMap<&'a str, Refusal>,
}

/// More rounds than these change nothing in practice; a bound for what no folder was seen
/// to need.
const MOST_ROUNDS: usize = 10;

/// Judges all pictures. Whoever is enrolled goes first; the others follow in the order of
/// names until nobody else can be accepted: each one accepted tightens the limit for the
/// rest.
pub(super) fn judge<'a>(folder: &'a BTreeMap<String, Vec<Face<'a>>>, standard: &Standard) -> Judgement<'a> {
    let mut bench = Bench { standard, known: BTreeMap::new() };
    for (name, faces) in folder {
        bench.admit(name, faces.iter().filter(|face| face.enrolled).collect());
    }
    let (first, rest): (Vec<_>, Vec<_>) = folder.iter().partition(|(name, _)| bench.known.contains_key(name.as_str()));
    let mut refused = BTreeMap::new();
    for _ in 0..MOST_ROUNDS {
        let mut changed = false;
        for (name, faces) in first.iter().chain(&rest) {
            let person = bench.judge_person(name, faces);
            changed |= bench.admit(name, person.accepted);
            refused.insert(name.as_str(), person.refused);
        }
        if !changed || refused.values().all(Vec::is_empty) {
            break;
        }
    }
    Judgement {
        people: bench.known.into_iter().map(|(name, known)| (name, known.faces)).collect(),
        refused: refused.into_values().flatten().collect(),
    }
}

/// What a person is known by at the door: a mean with its spread, or picture by picture.
type Rows = Vec<(Embedding, f32)>;

#[derive(Default)]
struct Known<'a> {
    faces: Vec<&'a Face<'a>>,
    rows: Rows,
}

struct Bench<'a, 's> {
    standard: &'s Standard,
    known: BTreeMap<&'a str, Known<'a>>,
}

#[derive(Default)]
struct Person<'a> {
    accepted: Vec<&'a Face<'a>>,
    refused: Vec<(&'a str, Refusal)>,
}

impl<'a> Bench<'a, '_> {
    /// From now on the person is known by these faces; whether that is another set than
    /// before.
    fn admit(&mut self, name: &'a str, mut faces: Vec<&'a Face<'a>>) -> bool {
        faces.sort_by_key(|face| face.key);
        let before = self.known.remove(name).unwrap_or_default();
        let same = before.faces.iter().map(|face| face.key).eq(faces.iter().map(|face| face.key));
        if same && !faces.is_empty() {
            self.known.insert(name, before);
        } else if !faces.is_empty() {
            let rows = self.rows(&faces);
            self.known.insert(name, Known { faces, rows });
        }
        !same
    }

    fn rows(&self, faces: &[&Face<'_>]) -> Rows {
        let Fusion { how, one_moment } = self.standard.fusion;
        match how {
            TemplateFusion::Best => faces.iter().map(|face| (face.embedding.clone(), 0.0)).collect(),
            TemplateFusion::Mean => fused(faces.iter().map(|face| &face.embedding), one_moment).into_iter().collect(),
        }
    }

    fn others(&self, name: &str) -> impl Iterator<Item = (&'a str, &Known<'a>)> {
        self.known.iter().filter(move |(other, _)| **other != name).map(|(other, known)| (*other, known))
    }

    fn judge_person(&self, name: &'a str, faces: &'a [Face<'a>]) -> Person<'a> {
        let mut person = Person::default();
        let mut own = without_copies(faces, &mut person.refused);
        if own.iter().all(|face| face.enrolled) {
            person.accepted = largest_group(name, &own, self.standard.max_spread, &mut person.refused);
            return person;
        }
        let others: usize = self.others(name).map(|(_, known)| known.rows.len()).sum();
        let limits = (self.standard.limits)(others + self.rows(&own).len());
        own.retain(|face| match self.wrong_face(name, face, &limits) {
            Some(refusal) => {
                person.refused.push((face.key, refusal));
                false
            }
            None => true,
        });
        let group = largest_group(name, &own, self.standard.max_spread, &mut person.refused);
        match limits.ok().and_then(|limits| self.rival(name, &group, limits)) {
            None => person.accepted = group,
            Some(refusal) => {
                // Without the pictures that bring the person so near to the other, all is
                // as it was.
                let fresh = group.iter().filter(|face| !face.enrolled);
                person.refused.extend(fresh.map(|face| (face.key, refusal.clone())));
                person.accepted = own.into_iter().filter(|face| face.enrolled).collect();
                person.refused.retain(|(key, _)| person.accepted.iter().all(|face| face.key != *key));
            }
        }
        person
    }

    /// Why a picture cannot be this person's, whatever the person's others show.
    fn wrong_face(&self, name: &str, face: &Face<'_>, limits: &Result<Limits, String>) -> Option<Refusal> {
        let before = self.known.get(name).is_some_and(|known| known.faces.iter().any(|known| known.key == face.key));
        match limits {
            _ if face.enrolled || before => None,
            Ok(limits) => self.likeness(name, face, *limits),
            Err(problem) => Some(Refusal::OutOfReach(problem.clone())),
        }
    }

    /// Another person's picture: the same, or one as near to what that person is known by
    /// as a match may be.
    fn likeness(&self, name: &str, face: &Face<'_>, limits: Limits) -> Option<Refusal> {
        let own = vec![(face.embedding.clone(), 0.0)];
        self.others(name).find_map(|(other, known)| {
            if let Some(same) = known.faces.iter().find(|known| known.sha256 == face.sha256) {
                return Some(Refusal::Duplicate(same.key.to_owned()));
            }
            looks_like(other, apart(&own, &known.rows, limits), limits)
        })
    }

    /// Somebody for whom the door could take this person, unless it could before and the
    /// new pictures bring the two no nearer.
    fn rival(&self, name: &str, group: &[&Face<'_>], limits: Limits) -> Option<Refusal> {
        if group.iter().all(|face| face.enrolled) {
            return None;
        }
        let (rows, before) = (self.rows(group), self.known.get(name));
        self.others(name).find_map(|(other, known)| {
            let distance = apart(&rows, &known.rows, limits);
            let earlier = before.map(|before| apart(&before.rows, &known.rows, limits));
            let no_worse = earlier.is_some_and(|earlier| earlier <= limits.single && distance >= earlier);
            looks_like(other, distance, limits).filter(|_| !no_worse)
        })
    }
}

fn looks_like(name: &str, distance: f32, limits: Limits) -> Option<Refusal> {
    let limit = limits.single;
    (distance <= limit).then(|| Refusal::LooksLike { name: name.to_owned(), distance, limit })
}

/// The least distance between what two people are known by.
fn apart(one: &Rows, other: &Rows, limits: Limits) -> f32 {
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (a, b)));
    let distance = |((a, spread), (b, other)): (&(Embedding, f32), &(Embedding, f32))| {
        limits.apart(a.values(), b.values(), spread + other)
    };
    pairs.map(distance).fold(f32::INFINITY, f32::min)
}

/// Each picture once; of copies the one that is confirmed, else the first.
fn without_copies<'a>(faces: &'a [Face<'a>], refused: &mut Vec<(&'a str, Refusal)>) -> Vec<&'a Face<'a>> {
    let mut kept: BTreeMap<[u8; 32], &Face<'_>> = BTreeMap::new();
    let mut ordered: Vec<&Face<'_>> = faces.iter().collect();
    ordered.sort_by_key(|face| (!face.is_confirmed(), !face.enrolled, face.key));
    ordered.retain(|face| match kept.get(&face.sha256) {
        Some(same) => {
            refused.push((face.key, Refusal::Duplicate(same.key.to_owned())));
            false
        }
        None => kept.insert(face.sha256, face).is_none(),
    });
    ordered
}

/// The pictures that show the person: the largest group of those that resemble each other, and
/// the confirmed ones with those that resemble these. If two groups are as large and have
/// nothing in common, neither can be told right and both are refused.
fn largest_group<'a>(
    name: &str,
    faces: &[&'a Face<'a>],
    max_spread: f32,
    refused: &mut Vec<(&'a str, Refusal)>,
) -> Vec<&'a Face<'a>> {
    let folder = Folder::of(faces, max_spread);
    let confirmed = folder.around_confirmed();
    let (mut accepted, rest): (Vec<usize>, Vec<usize>) = folder.all().partition(|i| confirmed.contains(i));
    let (best, tied) = folder.best_group(&rest);
    if !tied && folder.is_vouched_for(&best) {
        accepted.extend(&best);
        accepted.sort_unstable();
    }
    for i in rest.iter().copied().filter(|i| !accepted.contains(i)) {
        let undecided = accepted.is_empty();
        let others = if undecided { &rest } else { &accepted };
        let Some(far) = folder.farthest(i, others) else { continue };
        let (name, picture) = (name.to_owned(), faces[far].key.to_owned());
        let (limit, confirmed) = (max_spread, confirmed::name_of(faces[i].key));
        let refusal = match undecided {
            true => Refusal::Undecided { name, picture, distance: folder.apart[i][far], limit, confirmed },
            false => Refusal::UnlikeOthers { name, picture, distance: folder.mean(i, others), limit, confirmed },
        };
        refused.push((faces[i].key, refusal));
    }
    accepted.into_iter().map(|i| faces[i]).collect()
}

/// The pictures of one name, by their number.
struct Folder<'a> {
    faces: &'a [&'a Face<'a>],
    max_spread: f32,
    /// The distance of each to each.
    apart: Vec<Vec<f32>>,
}

impl<'a> Folder<'a> {
    fn of(faces: &'a [&'a Face<'a>], max_spread: f32) -> Folder<'a> {
        let apart = faces.iter().map(|a| faces.iter().map(|b| distance(a, b)).collect()).collect();
        Folder { faces, max_spread, apart }
    }

    fn all(&self) -> std::ops::Range<usize> {
        0..self.faces.len()
    }

    /// How far a picture is from the others of a group on average. One bad picture then
    /// neither lets a stranger's in nor keeps the person's out.
    fn mean(&self, picture: usize, group: &[usize]) -> f32 {
        let others: Vec<f32> = group.iter().filter(|&&i| i != picture).map(|&i| self.apart[picture][i]).collect();
        others.iter().sum::<f32>() / others.len().max(1) as f32
    }

    fn farthest(&self, picture: usize, of: &[usize]) -> Option<usize> {
        of.iter().copied().max_by(|&a, &b| self.apart[picture][a].total_cmp(&self.apart[picture][b]))
    }

    /// A group of pictures that resemble each other, put together from one outwards.
    fn group_around(&self, seed: usize, among: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut order: Vec<usize> = among.filter(|&i| i != seed).collect();
        order.sort_by(|&a, &b| self.apart[seed][a].total_cmp(&self.apart[seed][b]));
        let mut group = vec![seed];
        for i in order {
            if self.mean(i, &group) <= self.max_spread {
                group.push(i);
            }
        }
        group
    }

    /// The largest of the groups; of equally large ones that with more enrolled pictures, then
    /// the closest. And whether another with nothing in common ranks as high.
    fn best_group(&self, among: &[usize]) -> (Vec<usize>, bool) {
        let groups: Vec<Vec<usize>> =
            among.iter().map(|&seed| self.group_around(seed, among.iter().copied())).collect();
        let rank = |group: &[usize]| (group.len(), group.iter().filter(|&&i| self.faces[i].enrolled).count());
        let extent = |group: &[usize]| group.iter().map(|&i| self.mean(i, group)).sum::<f32>();
        let best = groups.iter().max_by(|a, b| rank(a).cmp(&rank(b)).then(extent(b).total_cmp(&extent(a))));
        let best = best.cloned().unwrap_or_default();
        let tied = groups.iter().any(|group| rank(group) == rank(&best) && group.iter().all(|i| !best.contains(i)));
        (best, tied)
    }

    fn confirmed(&self) -> impl Iterator<Item = usize> {
        self.all().filter(|&i| self.faces[i].is_confirmed())
    }

    /// The confirmed pictures, and those that resemble them.
    fn around_confirmed(&self) -> Vec<usize> {
        self.confirmed().flat_map(|seed| self.group_around(seed, self.all())).collect()
    }

    /// Whether pictures unlike the confirmed ones are the person's too. Confirmed ones that
    /// are unlike each other speak for each other; else they speak for the pictures that were
    /// there before, or for all if none was.
    fn is_vouched_for(&self, group: &[usize]) -> bool {
        let Some(first) = self.confirmed().next() else { return true };
        let alike = self.group_around(first, self.all());
        let enrolled = |i: usize| self.faces[i].enrolled;
        self.confirmed().all(|i| alike.contains(&i))
            && (group.iter().any(|&i| enrolled(i)) || !self.all().any(enrolled))
    }
}

fn distance(a: &Face<'_>, b: &Face<'_>) -> f32 {
    a.embedding.distance(&b.embedding).unwrap_or(f32::INFINITY)
}
