use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::{config::RecognitionConfig, threshold::Threshold, triplet::Random, vision::manifest::Manifest};

/// Those with a table, as they were measured on the first population: the crowds below are told
/// by their distance from it.
pub(crate) fn embedders() -> Vec<NetEntry> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let manifest = Manifest::load(&models).unwrap();
    let mut measured: Vec<_> = manifest.nets().iter().filter(|net| !net.thresholds.is_empty()).cloned().collect();
    assert!(measured.len() > 1);
    measured.iter_mut().for_each(|net| net.populations.truncate(1));
    measured
}

fn wanted(rate: f64) -> RecognitionConfig {
    let mut recognition = RecognitionConfig::default();
    recognition.false_match_rate.0 = rate;
    recognition
}

fn by_table(embedder: &NetEntry, rate: f64, comparisons: usize) -> Threshold {
    Threshold::choose(embedder, &wanted(rate), comparisons).unwrap()
}

/// The limit in force.
fn limit(embedder: &NetEntry, nearness: &Nearness, rate: f64, comparisons: usize) -> f32 {
    let fit = Fit::of(nearness, Width::of(embedder).unwrap());
    by_table(embedder, rate, comparisons).heeding(fit.as_ref()).limits.single
}

/// People whose distances to anyone enrolled have this centre and deviation.
struct Crowd {
    random: Random,
    centre: f32,
    deviation: f32,
}

impl Crowd {
    fn new(seed: u64, centre: f32, deviation: f32) -> Crowd {
        Crowd { random: Random::new(seed), centre, deviation }
    }

    /// How near one comes to the nearest of `comparisons` people.
    fn visit(&mut self, comparisons: usize) -> f32 {
        let distance = |_| self.centre + self.deviation * self.random.normal();
        (0..comparisons).map(distance).fold(2.0, f32::min)
    }

    /// So many who were denied.
    fn denied(&mut self, visits: usize, comparisons: usize, limit: f32) -> Nearness {
        let mut nearness = Nearness::default();
        let denied = (0..visits * 100).map(|_| self.visit(comparisons)).filter(|distance| *distance > limit);
        denied.take(visits).for_each(|distance| nearness.add(comparisons, distance));
        assert_eq!(nearness.visits() as usize, visits);
        nearness
    }

    fn share_within(&mut self, comparisons: usize, limit: f32) -> f64 {
        let within = (0..100_000).filter(|_| self.visit(comparisons) < limit).count();
        within as f64 / 1e5
    }
}

/// Centre of the table's own people: the deviation is that of its steps.
fn like_the_table(embedder: &NetEntry) -> (f32, f32) {
    let (width, loosest) = (Width::of(embedder).unwrap(), embedder.thresholds[0]);
    let centre = f64::from(loosest.distance) - width.deviation * quantile(loosest.fmr);
    (centre as f32, width.deviation as f32)
}

#[test]
fn the_quantiles_are_those_of_the_tables() {
    for (probability, expected) in [(0.5, 0.0), (0.975, 1.959_964), (1e-3, -3.090_232), (1e-9, -5.997_807)] {
        assert!((quantile(probability) - expected).abs() < 1e-5, "{probability}: {}", quantile(probability));
    }
}

proptest! {
    /// Whatever was counted, with whatever enrolled now.
    #[test]
    fn strangers_alone_never_loosen_the_limit(
        visits in prop::collection::vec((0usize..40, -0.5f32..2.5, 1usize..200), 0..30),
        decades in 2i32..6, enrolled in 0usize..30,
    ) {
        let mut nearness = Nearness::default();
        for (comparisons, distance, times) in visits {
            (0..times).for_each(|_| nearness.add(comparisons, distance));
        }
        for embedder in embedders() {
            let rate = 10f64.powi(-decades);
            let Ok(table) = Threshold::choose(&embedder, &wanted(rate), enrolled) else { continue };
            let strictest = embedder.thresholds.last().unwrap().distance;
            let limit = limit(&embedder, &nearness, rate, enrolled);
            prop_assert!(limit <= table.limits.single);
            // nobody_with_pictures_shuts_known_people_out: this is as far as it goes.
            prop_assert!(limit >= strictest.min(table.limits.single));
        }
    }
}

#[test]
fn a_door_whose_strangers_lie_nearer_becomes_stricter() {
    for embedder in embedders() {
        let (centre, deviation) = like_the_table(&embedder);
        for enrolled in [1, 5] {
            let table = by_table(&embedder, 1e-3, enrolled).limits.single;
            let mut crowd = Crowd::new(enrolled as u64, centre - deviation, deviation * 0.95);
            let before = crowd.share_within(enrolled, table);
            let nearness = crowd.denied(60, enrolled, table);
            let own = limit(&embedder, &nearness, 1e-3, enrolled);
            let after = crowd.share_within(enrolled, own);
            assert!(own < table - deviation / 3.0, "{}, {enrolled}: {own} against {table}", embedder.name);
            assert!(before > 3e-3 && after < before / 4.0 && after < 2.5e-3, "{}: {before} {after}", embedder.name);
        }
    }
}

#[test]
fn a_door_whose_strangers_are_like_the_table_keeps_it() {
    for embedder in embedders() {
        let (centre, deviation) = like_the_table(&embedder);
        for (enrolled, visits) in [(1, 40), (1, 400), (5, 60), (15, 150)] {
            let table = by_table(&embedder, 1e-3, enrolled).limits.single;
            let stricter = |seed: &u64| {
                let nearness = Crowd::new(*seed, centre, deviation).denied(visits, enrolled, table);
                limit(&embedder, &nearness, 1e-3, enrolled) < table
            };
            let changed = (0..100u64).filter(stricter).count();
            assert!(changed <= 5, "{}: {changed} of 100 with {enrolled} enrolled, {visits} visits", embedder.name);
        }
    }
}

#[test]
fn the_interval_holds_the_centre_as_often_as_it_says() {
    let width = Width { deviation: 0.12, floor: 0.8 };
    for comparisons in [1, 6] {
        let holds = |seed: &u64| {
            let nearness = Crowd::new(*seed, 1.3, 0.12).denied(50, comparisons, 0.0);
            let fit = Fit::of(&nearness, width).unwrap();
            fit.interval.0 <= 1.3 + 0.005 && fit.interval.1 >= 1.3 - 0.005
        };
        let share = (0..1000u64).filter(holds).count();
        assert!((930..=990).contains(&share), "{share} of 1000 with {comparisons} enrolled");
    }
}

/// What was counted with few enrolled holds with many, and the other way round.
#[test]
fn how_many_are_enrolled_is_reckoned_with() {
    let width = Width { deviation: 0.12, floor: 0.5 };
    let mut mixed = Crowd::new(1, 1.25, 0.12).denied(300, 1, 0.0);
    mixed.merge(&Crowd::new(2, 1.25, 0.12).denied(300, 12, 0.0));
    let fit = Fit::of(&mixed, width).unwrap();
    assert!(mixed.visits() == 600 && (fit.centre - 1.25).abs() < 0.03, "{fit:?}");
    assert!(fit.limit(1e-2, 12).limit < fit.limit(1e-2, 1).limit - 0.05, "more people, nearer matches");
}

#[test]
fn few_visits_decide_nothing() {
    let embedder = &embedders()[0];
    let (centre, deviation) = like_the_table(embedder);
    let table = by_table(embedder, 1e-3, 1).limits.single;
    let nearness = |visits| Crowd::new(1, centre - deviation * 1.5, deviation).denied(visits, 1, table);
    let few = nearness(ENOUGH_VISITS as usize - 1);
    assert_eq!(limit(embedder, &few, 1e-3, 1), table);
    assert!(limit(embedder, &nearness(ENOUGH_VISITS as usize), 1e-3, 1) < table);
    assert_eq!(Fit::of(&Nearness::default(), Width::of(embedder).unwrap()), None);
}

/// A fifth of the visits are of enrolled people in bad light, just beyond the limit.
#[test]
fn known_people_in_bad_light_do_not_tighten_it() {
    for embedder in embedders() {
        let (centre, deviation) = like_the_table(&embedder);
        let table = by_table(&embedder, 1e-3, 1).limits.single;
        let tightened = |seed: &u64| {
            let mut nearness = Crowd::new(*seed, centre, deviation).denied(48, 1, table);
            nearness.merge(&Crowd::new(*seed, table + deviation * 0.4, deviation * 0.25).denied(12, 1, table));
            limit(&embedder, &nearness, 1e-3, 1) < table
        };
        let changed = (0..100u64).filter(tightened).count();
        assert!(changed <= 5, "{}: {changed} of 100", embedder.name);
    }
}

/// Each day as many pictures as are counted, chosen to lie just beyond the limit of that
/// day.
#[test]
fn nobody_with_pictures_shuts_known_people_out() {
    for embedder in embedders() {
        let (centre, deviation) = like_the_table(&embedder);
        let table = by_table(&embedder, 1e-3, 1).limits.single;
        let mut nearness = Crowd::new(1, centre, deviation).denied(60, 1, table);
        for _ in 0..60 {
            let today = limit(&embedder, &nearness, 1e-3, 1);
            (0..100).for_each(|_| nearness.add(1, today + BIN));
        }
        let limit = limit(&embedder, &nearness, 1e-3, 1);
        let strictest = embedder.thresholds.last().unwrap().distance;
        assert_eq!(limit, strictest, "{}: it ends at what was measured", embedder.name);
        // One face, whatever its distance, counts once a day: a month of it against
        // honest visits.
        let mut nearness = Crowd::new(1, centre, deviation).denied(90, 1, table);
        let before = self::limit(&embedder, &nearness, 1e-3, 1);
        (0..30).for_each(|_| nearness.add(1, before + BIN));
        let after = self::limit(&embedder, &nearness, 1e-3, 1);
        assert!(after > before - deviation, "{}: {after} against {before}", embedder.name);
    }
}

#[test]
fn a_distance_that_was_given_is_not_changed_by_strangers() {
    let embedder = &embedders()[0];
    let (centre, deviation) = like_the_table(embedder);
    let nearness = Crowd::new(1, centre - deviation * 1.5, deviation).denied(100, 1, 0.0);
    let fit = Fit::of(&nearness, Width::of(embedder).unwrap());
    let recognition = RecognitionConfig { max_distance: Some(0.9), ..wanted(1e-3) };
    let given = Threshold::choose(embedder, &recognition, 1).unwrap();
    assert_eq!(given.clone().heeding(fit.as_ref()), given);
    let own = by_table(embedder, 1e-3, 1).heeding(fit.as_ref());
    assert_eq!(own.by_table(), by_table(embedder, 1e-3, 1).limits);
    let said = own.to_string();
    assert!(said.contains("set by this door's own strangers (100 visits; the table says"), "{said}");
}

#[test]
fn a_table_of_one_entry_has_no_tail() {
    let mut embedder = embedders().swap_remove(0);
    embedder.thresholds.truncate(1);
    assert_eq!(Width::of(&embedder), None);
    embedder.thresholds.clear();
    assert_eq!(Width::of(&embedder), None);
}
