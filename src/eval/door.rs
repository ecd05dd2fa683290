//! A door whose strangers are of one group, simulated: what its own evidence does to its
//! limit.
//!
//! Half of the other people come first, and are counted as far as they are denied; the
//! limit that they speak for is judged by the other half. Each picture stands for a
//! visit.

use ndarray::ArrayView2;

use super::statistics::distance;
use crate::{
    evidence::{Fit, Nearness, Width},
    triplet::Random,
};

/// Visits that are counted before the limit is set.
pub const VISITS: usize = 60;
const DOORS: usize = 200;
/// People each half needs at least.
const FEWEST: usize = 2;

/// What is asked of the door.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub enrolled: usize,
    pub per_visit: f64,
    /// The limit by the table alone.
    pub table: f32,
}

/// Means over simulated doors: by the table alone, and with the door's own evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Simulated {
    pub limit: [f64; 2],
    /// Share of strangers within the limit.
    pub strangers: [f64; 2],
    /// Share of known people's other pictures within it; None: each has one picture.
    pub known: Option<[f64; 2]>,
    /// Share of doors whose limit became stricter.
    pub stricter: f64,
}

/// Comparisons within a limit, of all.
#[derive(Default)]
struct Share {
    within: f64,
    all: f64,
}

impl Share {
    fn add(&mut self, distance: f32, limit: f32) {
        self.within += f64::from(u8::from(distance < limit));
        self.all += 1.0;
    }

    fn value(&self) -> Option<f64> {
        (self.all > 0.0).then(|| self.within / self.all)
    }
}

/// `person[i]` says whose embedding (a row of unit length) row `i` is. None: there are
/// too few people.
pub fn simulate(rows: ArrayView2<'_, f32>, person: &[usize], width: Width, question: Question) -> Option<Simulated> {
    let people = person.iter().max()? + 1;
    let mut of_person = vec![Vec::new(); people];
    person.iter().enumerate().for_each(|(row, person)| of_person[*person].push(row));
    of_person.retain(|rows| !rows.is_empty());
    if of_person.len() < question.enrolled + 2 * FEWEST {
        return None;
    }
    let mut random = Random::new(1);
    let (mut strangers, mut known) = ([Share::default(), Share::default()], [Share::default(), Share::default()]);
    let mut found = Simulated::default();
    for _ in 0..DOORS {
        shuffle(&mut of_person, &mut random);
        let (enrolled, others) = of_person.split_at(question.enrolled);
        let (first, second) = others.split_at(others.len() / 2);
        let templates: Vec<usize> = enrolled.iter().map(|own| own[random.below(own.len())]).collect();
        let near = |row: usize| {
            let to = |template: &usize| distance(rows.row(row), rows.row(*template));
            templates.iter().map(to).fold(2.0, f32::min)
        };
        let own = own_limit(first, &near, width, question, &mut random);
        let limits = [question.table, own];
        for (i, limit) in limits.into_iter().enumerate() {
            found.limit[i] += f64::from(limit) / DOORS as f64;
        }
        found.stricter += f64::from(u8::from(own < question.table)) / DOORS as f64;
        for row in second.iter().flatten() {
            let near = near(*row);
            (0..2).for_each(|i| strangers[i].add(near, limits[i]));
        }
        for (own, template) in enrolled.iter().zip(&templates) {
            for row in own.iter().filter(|row| *row != template) {
                let near = distance(rows.row(*row), rows.row(*template));
                (0..2).for_each(|i| known[i].add(near, limits[i]));
            }
        }
    }
    found.strangers = [strangers[0].value()?, strangers[1].value()?];
    found.known = known[0].value().zip(known[1].value()).map(|(table, own)| [table, own]);
    Some(found)
}

/// The limit after visits of these people, each once as far as that is enough.
fn own_limit(
    people: &[Vec<usize>],
    near: &impl Fn(usize) -> f32,
    width: Width,
    question: Question,
    random: &mut Random,
) -> f32 {
    let mut nearness = Nearness::default();
    for visit in 0..VISITS {
        let pictures = &people[visit % people.len()];
        let distance = near(pictures[random.below(pictures.len())]);
        if distance > question.table {
            nearness.add(question.enrolled, distance);
        }
    }
    let own = Fit::of(&nearness, width).map(|fit| fit.limit(question.per_visit, question.enrolled));
    own.filter(|own| own.tightens(question.table)).map_or(question.table, |own| own.limit)
}

fn shuffle<T>(things: &mut [T], random: &mut Random) {
    for end in (1..things.len()).rev() {
        things.swap(end, random.below(end + 1));
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::{eval::statistics::unit_rows, evidence::tests::embedders, vision::manifest::NetEntry};

    /// One whose distances are those of directions in a space of many dimensions.
    fn embedder() -> NetEntry {
        embedders().into_iter().find(|embedder| embedder.thresholds[0].distance > 1.0).unwrap()
    }

    /// `people` with three pictures each: a direction that all share, one of their own,
    /// and noise.
    fn group(people: usize, shared: f32) -> (Array2<f32>, Vec<usize>) {
        const DIMENSION: usize = 64;
        let mut random = Random::new(3);
        let mut values = Vec::new();
        for _ in 0..people {
            let own: Vec<f32> = (0..DIMENSION).map(|_| random.normal()).collect();
            for _ in 0..3 {
                values.push(shared);
                values.extend(own.iter().map(|value| value + random.normal() * 0.35));
            }
        }
        let rows = Array2::from_shape_vec((people * 3, DIMENSION + 1), values).unwrap();
        (unit_rows(rows), (0..people * 3).map(|row| row / 3).collect())
    }

    #[test]
    fn people_who_are_alike_make_their_door_stricter() {
        let embedder = &embedder();
        let question = Question { enrolled: 1, per_visit: 1e-3, table: embedder.distance_for(1e-3 / 3.0).unwrap() };
        let width = Width::of(embedder).unwrap();
        let simulated = |shared| {
            let (rows, person) = group(200, shared);
            simulate(rows.view(), &person, width, question).unwrap()
        };
        let unlike = simulated(0.0);
        assert!(unlike.stricter < 0.05 && unlike.limit[0] - unlike.limit[1] < 0.01, "{unlike:?}");
        let alike = simulated(4.5);
        assert!(alike.stricter > 0.95 && alike.limit[1] < alike.limit[0] - 0.04, "{alike:?}");
        assert!(alike.strangers[1] < alike.strangers[0] / 3.0, "{alike:?}");
    }

    #[test]
    fn a_group_too_small_for_a_door_is_not_simulated() {
        let embedder = &embedder();
        let question = Question { enrolled: 5, per_visit: 1e-3, table: 1.0 };
        let (rows, person) = group(8, 0.0);
        assert_eq!(simulate(rows.view(), &person, Width::of(embedder).unwrap(), question), None);
        assert_eq!(simulate(Array2::zeros((0, 65)).view(), &[], Width::of(embedder).unwrap(), question), None);
    }
}
