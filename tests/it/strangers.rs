//! This door's own evidence: real nets, real store, a door that is played from pictures.

use std::{path::Path, sync::Arc};

use facelatch::{
    api::{Ask, ask},
    calibrate::{AtDoor, Calibration, Likeness},
    config::Config,
    daemon::{self, Signals},
    service::{Services, now_ms},
    store::{Measure, Store},
    vision::{manifest::Manifest, model::Precision},
};

use crate::door::{config, play};

fn measure(config: &Config) -> Measure {
    let manifest = Manifest::load(&config.models.dir).unwrap();
    Measure { model: manifest.embedder(&config.models.embedder).unwrap().model_id(), precision: Precision::W8 }
}

/// Distances at which strangers are let in at limits about the loosest one of the table.
fn count_strangers(config: &Config, measure: Measure, visits: u32) {
    let store = Store::open(&config.store.path, 0).unwrap().0;
    let loosest = Manifest::load(&config.models.dir).unwrap().embedder(&config.models.embedder).unwrap().thresholds[0];
    for visit in 0..visits {
        let distance = loosest.distance + (visit % 40) as f32 * 0.002;
        store.count_stranger(measure, now_ms(), 1, distance).unwrap();
    }
}

fn open(config: &Config) -> Arc<Services> {
    Services::open(config.clone()).unwrap().0
}

fn limit(services: &Services) -> f32 {
    services.status().max_distance
}

fn calibrate(services: &Services) -> Calibration {
    ask::Calibrate {}.of(services, "test").unwrap()
}

fn at_door(services: &Services) -> AtDoor {
    calibrate(services).at_door
}

/// Overwrites every record of strangers' visits, as a failing card does.
fn damage(store: &Path) {
    let db = sled::open(store).unwrap();
    let tree = db.open_tree("nearness").unwrap();
    let keys: Vec<_> = tree.iter().keys().map(Result::unwrap).collect();
    assert!(!keys.is_empty());
    keys.iter().for_each(|key| drop(tree.insert(key, &b"\x01nonsense"[..]).unwrap()));
    db.flush().unwrap();
}

#[test]
fn this_doors_own_strangers_tighten_the_limit_and_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let by_table = limit(&open(&config));
    count_strangers(&config, measure(&config), 30);
    let services = open(&config);
    assert_eq!(limit(&services), by_table, "some dozens are needed");
    assert!(!at_door(&services).in_force && at_door(&services).visits == 30);
    drop(services);
    count_strangers(&config, measure(&config), 30);
    let services = open(&config);
    let own = limit(&services);
    assert!(own < by_table - 0.02, "{own} against {by_table}");
    let said = services.roster().threshold.to_string();
    assert!(said.contains(&format!("own strangers (60 visits; the table says {by_table:.3})")), "{said}");
    let basis = services.status().limit_basis.unwrap();
    assert!(basis.contains("own strangers (60 visits"), "{basis}");
    let found = at_door(&services);
    assert!(found.in_force && found.visits == 60 && found.distances.total() == 60, "{found:?}");
    assert_eq!((found.own.unwrap().limit, found.table), (own, Some(by_table)));
    // Nothing comes back by itself; it does on demand.
    services.weigh_strangers();
    assert_eq!(limit(&services), own);
    ask::ForgetStrangers {}.of(&*services, "test").unwrap();
    assert_eq!((limit(&services), at_door(&services).visits), (by_table, 0));
}

#[test]
fn a_damaged_histogram_is_set_aside_and_the_table_stands() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let by_table = limit(&open(&config));
    count_strangers(&config, measure(&config), 60);
    assert!(limit(&open(&config)) < by_table);
    damage(&config.store.path);
    let services = open(&config);
    assert_eq!(limit(&services), by_table);
    let found = at_door(&services);
    assert_eq!((found.visits, found.damaged_days, found.in_force), (0, 1, false));
    assert_eq!(services.status().people, 1, "the door works on");
    drop(services);
    count_strangers(&config, measure(&config), 60);
    assert!(limit(&open(&config)) < by_table, "and counts on");
}

#[test]
fn visits_counted_with_another_precision_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let by_table = limit(&open(&config));
    count_strangers(&config, Measure { precision: Precision::Int8, ..measure(&config) }, 90);
    let services = open(&config);
    assert_eq!(limit(&services), by_table);
    assert_eq!((at_door(&services).visits, at_door(&services).visits_of_other_models), (0, 90));
}

#[test]
fn the_door_counts_strangers_and_nobody_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    let (known, unknown, other) = ("barack_obama_2.png", "eileen_collins_1.png", "joe_biden_1.png");
    play(dir.path(), &[(known, 12), ("", 14), (unknown, 12), ("", 14), (unknown, 12), ("", 14), (other, 12), ("", 4)]);
    let config = config(dir.path());
    daemon::run(config.clone(), &Signals::default()).unwrap();
    let store = Store::open(&config.store.path, 0).unwrap().0;
    let kept = store.nearness(measure(&config)).unwrap();
    assert_eq!(kept.nearness.visits(), 2, "a face counts once a day: {:?}", kept.nearness.bins());
    assert!(store.strangers().unwrap().is_empty(), "no face is kept");
}

#[test]
fn unknown_people_who_are_kept_are_named_by_calibrate() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("eileen_collins_1.png", 12), ("", 14)]);
    let mut config = config(dir.path());
    config.enroll.keep_unknown = 5;
    daemon::run(config.clone(), &Signals::default()).unwrap();
    let strangers = calibrate(&open(&config)).strangers;
    assert_eq!(strangers.len(), 1, "{strangers:?}");
    let Likeness { picture, person, distance } = &strangers[0];
    assert_eq!((picture.as_str(), person.as_str()), ("unknown face 1", "Barack Obama"));
    assert!(*distance > 1.1, "{distance}");
}
