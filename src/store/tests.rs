use std::{collections::HashMap, ops::Range};

use proptest::prelude::*;

use super::*;
use crate::clock::{self, History};

fn open(path: &Path) -> Store {
    Store::open(path, 0).unwrap().0
}

fn moment(at_ms: i64) -> Moment {
    Moment { at_ms, boot_id: "boot".into(), since_boot: Duration::from_secs(1) }
}

fn person(id: u32, name: &str) -> Person {
    Person { id: PersonId(id), name: name.into(), pictures: Vec::new() }
}

#[test]
fn people_and_events_are_there_after_closing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    {
        let store = open(&path);
        assert_eq!(store.fresh_person_id().unwrap(), PersonId(1));
        store.put_person(&person(1, "Ada")).unwrap();
        store.append_event(moment(5), EventKind::Started).unwrap();
    }
    let store = open(&path);
    assert_eq!(store.people().unwrap(), [person(1, "Ada")]);
    assert_eq!(store.fresh_person_id().unwrap(), PersonId(2), "numbers are not given twice");
    assert_eq!(store.append_event(moment(6), EventKind::Stopped).unwrap().id, 2);
    assert_eq!(store.events(None, None).unwrap().len(), 2);
}

#[test]
fn events_are_listed_by_time_and_number() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    for at in [10, 20, 30, 40] {
        store.append_event(moment(at), EventKind::Started).unwrap();
    }
    let times = |since, limit| store.events(since, limit).unwrap().iter().map(|e| e.at_ms).collect::<Vec<_>>();
    assert_eq!(times(Some(20), None), [20, 30, 40]);
    assert_eq!(times(None, Some(2)), [30, 40], "the newest ones");
    assert_eq!(store.forget_events_up_to(3).unwrap(), 3);
    assert_eq!(times(None, None), [40]);
    assert_eq!(store.append_event(moment(50), EventKind::Stopped).unwrap().id, 5);
}

#[test]
fn followers_hear_of_every_event() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let follower = store.follow();
    store.append_event(moment(1), EventKind::Started).unwrap();
    assert_eq!(follower.recv().unwrap().kind, EventKind::Started);
}

#[test]
fn the_store_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let _store = open(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_daemon_on_the_same_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(&dir.path().join("store"));
    let error = Store::open(&dir.path().join("store"), 0).err().expect("the store is taken");
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("another facelatch"));
}

#[test]
fn a_store_of_a_newer_program_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    store.write(&store.meta, b"schema", 99u32.to_be_bytes().to_vec()).unwrap();
    drop(store);
    assert!(matches!(Store::open(&dir.path().join("store"), 0), Err(StoreError::Newer { found: 99, .. })));
}

#[test]
fn a_damaged_record_is_skipped_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    store.put_person(&person(1, "Ada")).unwrap();
    store.put_person(&person(2, "Grace")).unwrap();
    store.write(&store.people, &2u32.to_be_bytes(), b"rubbish".to_vec()).unwrap();
    drop(store);
    let (store, notes) = Store::open(&dir.path().join("store"), 0).unwrap();
    assert_eq!(store.people().unwrap(), [person(1, "Ada")]);
    assert_eq!(notes, [RecoveryNote::RecordsSkipped { count: 1 }]);
}

#[test]
fn a_snapshot_that_was_being_written_does_not_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    open(&path).put_person(&person(1, "Ada")).unwrap();
    fs::write(path.join("snap.0000000000000042.generating"), "torn").unwrap();
    assert_eq!(open(&path).people().unwrap(), [person(1, "Ada")]);
}

#[test]
fn torn_snapshots_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    open(&path).put_person(&person(1, "Ada")).unwrap();
    let mut torn = 0;
    for entry in fs::read_dir(&path).unwrap() {
        let file = entry.unwrap().path();
        if file.file_name().unwrap().to_str().unwrap().starts_with("snap.") {
            let half = fs::read(&file).unwrap();
            fs::write(&file, &half[..half.len() / 2]).unwrap();
            torn += 1;
        }
    }
    let (store, notes) = Store::open(&path, 7).unwrap();
    assert_eq!(store.people().unwrap(), [person(1, "Ada")]);
    if torn > 0 {
        assert_eq!(notes, [RecoveryNote::SnapshotsDropped { copy: dir.path().join("store.damaged-7") }]);
    }
}

#[test]
fn a_store_beyond_repair_is_kept_beside_and_a_new_one_started() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    open(&path).put_person(&person(1, "Ada")).unwrap();
    fs::write(path.join("conf"), "this is no configuration of sled").unwrap();
    let (store, notes) = Store::open(&path, 7).unwrap();
    assert_eq!(notes, [RecoveryNote::StartedEmpty { copy: dir.path().join("store.damaged-7") }]);
    assert_eq!(store.people().unwrap(), []);
    store.put_person(&person(1, "Ada")).unwrap();
    assert_eq!(fs::read(dir.path().join("store.damaged-7/conf")).unwrap(), b"this is no configuration of sled");
}

const ADA: PersonId = PersonId(1);
/// 2026-11-01.
const NOVEMBER: i64 = 1_793_491_200_000;
const HOUR: i64 = 3_600_000;

fn granted(person: u32) -> EventKind {
    let (person, name) = (PersonId(person), format!("person {person}"));
    EventKind::Granted { person, name, distance: 0.2, frames: 3, latency_ms: 9, pulsed: true }
}

fn ids(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.id).collect()
}

/// A store as the first edition wrote it: events in a tree of sled.
fn old_store(path: &Path, events: u64) {
    let db = sled::open(path).unwrap();
    let meta = db.open_tree("meta").unwrap();
    meta.insert("schema", &1u32.to_be_bytes()).unwrap();
    meta.insert("last_person", &7u32.to_be_bytes()).unwrap();
    db.open_tree("people").unwrap().insert(1u32.to_be_bytes(), record::encode(&person(1, "Ada")).unwrap()).unwrap();
    // Another program's tree is kept as it is.
    db.open_tree("another").unwrap().insert("key", "value").unwrap();
    let tree = db.open_tree("events").unwrap();
    for id in 1..=events {
        let (boot_id, since_boot) = ("boot".into(), Duration::from_secs(id));
        let event = Event { id, at_ms: NOVEMBER + id as i64 * 1000, boot_id, since_boot, kind: granted(1) };
        tree.insert(id.to_be_bytes(), record::encode(&event).unwrap()).unwrap();
    }
    db.flush().unwrap();
}

#[test]
fn events_of_an_older_program_move_into_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    old_store(&path, 3000);
    assert!(Store::is_outdated(&path));
    for round in 0..2 {
        let (store, notes) = Store::open(&path, 0).unwrap();
        assert_eq!(notes, []);
        assert!(!Store::is_outdated(&path));
        assert_eq!(ids(&store.events(None, None).unwrap()), (1..=3000 + round).collect::<Vec<_>>());
        assert_eq!(store.people().unwrap(), [person(1, "Ada")]);
        assert_eq!(store.db.open_tree("another").unwrap().get("key").unwrap().unwrap().as_ref(), b"value");
        assert!(store.db.tree_names().iter().all(|name| name.as_ref() != b"events"));
        assert_eq!(store.last_granted().unwrap(), HashMap::from([(ADA, NOVEMBER + 3_000_000)]));
        assert_eq!(store.append_event(moment(5), EventKind::Started).unwrap().id, 3001 + round);
    }
    assert_eq!(open(&path).fresh_person_id().unwrap(), PersonId(8));
}

#[test]
fn a_move_that_was_interrupted_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    old_store(&path, 50);
    let mut log = EventLog::open(&path.join("events")).unwrap();
    let db = sled::open(&path).unwrap();
    for entry in db.open_tree("events").unwrap().iter().take(20) {
        let (key, record) = entry.unwrap();
        log.append(u64::from_be_bytes(key.as_ref().try_into().unwrap()), &record, false).unwrap();
    }
    // The tables were being rebuilt when the power failed.
    fs::create_dir(path.join("rebuilt")).unwrap();
    fs::write(path.join("rebuilt/db"), "half of it").unwrap();
    drop((log, db));
    let store = open(&path);
    assert_eq!(ids(&store.events(None, None).unwrap()), (1..=50).collect::<Vec<_>>());
    assert_eq!(store.people().unwrap(), [person(1, "Ada")]);
    assert!(!path.join("rebuilt").exists());
}

#[test]
fn a_store_that_is_in_use_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let _first = open(&path);
    // As it is while another process moves its events.
    fs::create_dir(path.join("rebuilt")).unwrap();
    assert!(matches!(Store::open(&path, 0), Err(StoreError::InUse { .. })));
    assert!(path.join("rebuilt").exists());
}

/// A store with some events, closed; and its folder.
fn with_events(dir: &tempfile::TempDir, count: i64) -> PathBuf {
    let path = dir.path().join("store");
    let store = open(&path);
    store.put_person(&person(1, "Ada")).unwrap();
    (0..count).for_each(|at| drop(store.append_event(moment(NOVEMBER + at), granted(1)).unwrap()));
    path
}

#[test]
fn an_emptied_store_says_how_many_events_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_events(&dir, 12);
    fs::remove_dir_all(&path).unwrap();
    let (store, notes) = Store::open(&path, 0).unwrap();
    assert_eq!(notes, [RecoveryNote::Replaced { events: 12 }]);
    assert!(notes[0].to_string().contains("12 events are missing"), "{}", notes[0]);
    assert_eq!(store.append_event(moment(0), EventKind::Started).unwrap().id, 13, "no number is given twice");
    drop(store);
    assert_eq!(Store::open(&path, 0).unwrap().1, [], "one note only");
}

#[test]
fn overwritten_tables_are_noticed_and_cost_no_event() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_events(&dir, 12);
    fs::write(path.join("db"), "not a picture this program can read").unwrap();
    let (store, notes) = Store::open(&path, 7).unwrap();
    assert_eq!(notes, [RecoveryNote::Replaced { events: 0 }]);
    assert_eq!(store.events(None, None).unwrap().len(), 12);
    assert_eq!(store.people().unwrap(), []);
    assert_eq!(store.fresh_person_id().unwrap(), PersonId(2), "person 1 is Ada in the events");
}

#[test]
fn an_overwritten_event_log_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_events(&dir, 12);
    let file = path.join("events").join(format!("{:020}.log", 1));
    fs::write(&file, "nonsense").unwrap();
    let (store, notes) = Store::open(&path, 0).unwrap();
    let file = file.with_extension("log.damaged");
    let problem = "is damaged";
    assert_eq!(notes, [RecoveryNote::EventsLost { file, problem, events: 12, first: 1, last: 12 }]);
    assert_eq!(store.last_granted().unwrap(), HashMap::new());
    assert_eq!(store.append_event(moment(0), EventKind::Started).unwrap().id, 13);
    assert_eq!(store.people().unwrap(), [person(1, "Ada")]);
}

fn log_file(path: &Path, first: u64) -> PathBuf {
    path.join("events").join(format!("{first:020}.log"))
}

/// A store of so many events that was damaged while it was closed: what opening it notes,
/// now and once more, and how many events are left.
fn damaged(count: i64, damage: impl Fn(&Path)) -> (Vec<RecoveryNote>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = with_events(&dir, count);
    damage(&path);
    let (store, mut notes) = Store::open(&path, 0).unwrap();
    while store.check_some_events(&mut notes).unwrap() {}
    let left = store.events(None, None).unwrap().len();
    let next = store.append_event(moment(NOVEMBER), EventKind::Started).unwrap().id;
    assert_eq!(next, count as u64 + 1, "no number is given twice");
    while store.check_some_events(&mut notes).unwrap() {}
    drop(store);
    assert_eq!(Store::open(&path, 0).unwrap().1, [], "it is noted once");
    let told: u64 = notes.iter().map(RecoveryNote::events_missing).sum();
    assert_eq!(told, count as u64 - left as u64, "what is missing is noted: {notes:?}");
    (notes, left)
}

fn overwrite(file: &Path, from: usize, bytes: &[u8]) {
    let mut content = fs::read(file).unwrap();
    content[from..from + bytes.len()].copy_from_slice(bytes);
    fs::write(file, content).unwrap();
}

#[test]
fn every_event_that_damage_costs_is_noted_with_its_file() {
    for first in [1, 1025] {
        let (notes, left) = damaged(1108, |path| overwrite(&log_file(path, first), 0, &[255; 4]));
        assert_eq!(left, 1107);
        let words = notes[0].to_string();
        assert!(words.contains(&format!("{first:020}.log is damaged: 1 event")), "{words}");
    }
    let (_, left) = damaged(1108, |path| overwrite(&log_file(path, 1), 10_000, &[0; 20_000]));
    assert!((600..700).contains(&left), "{left}");
    let (notes, left) = damaged(1108, |path| fs::remove_file(log_file(path, 1)).unwrap());
    assert_eq!(left, 84);
    assert!(notes[0].to_string().contains("00000000000000000001.log is gone: 1024 events"), "{}", notes[0]);
    let (notes, left) = damaged(1108, |path| fs::remove_file(log_file(path, 1025)).unwrap());
    assert_eq!((left, notes.len()), (1024, 1));
    let (_, left) = damaged(3000, |path| fs::remove_file(log_file(path, 1025)).unwrap());
    assert_eq!(left, 3000 - 1024);
    let (_, left) = damaged(1108, |path| fs::write(log_file(path, 1025), vec![255; 9000]).unwrap());
    assert_eq!(left, 1024);
    let (_, left) = damaged(1108, |path| {
        let content = fs::read(log_file(path, 1)).unwrap();
        fs::write(log_file(path, 1), &content[..content.len() / 2]).unwrap();
    });
    assert!((84 + 500..84 + 520).contains(&left), "{left}");
}

#[test]
fn forgotten_events_are_not_called_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_events(&dir, 3000);
    for up_to in [10, 1024, 1500, 2047, 2999, 3000] {
        let (store, notes) = Store::open(&path, 0).unwrap();
        assert_eq!(notes, [], "before {up_to}");
        store.forget_events_up_to(up_to).unwrap();
        let mut notes = Vec::new();
        while store.check_some_events(&mut notes).unwrap() {}
        assert_eq!(notes, [], "{up_to}");
    }
    let (store, notes) = Store::open(&path, 0).unwrap();
    assert_eq!((notes, ids(&store.events(None, None).unwrap())), (vec![], vec![3000]));
    drop(store);
    fs::remove_dir_all(path.join("events")).unwrap();
    let (_, notes) = Store::open(&path, 0).unwrap();
    assert_eq!(notes, [RecoveryNote::EventsMissing { events: 1, first: 3000, last: 3000 }]);
}

#[test]
fn events_deleted_while_it_runs_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_events(&dir, 1108);
    let (store, notes) = Store::open(&path, 0).unwrap();
    assert_eq!(notes, []);
    fs::remove_dir_all(path.join("events")).unwrap();
    let id = store.append_event(moment(NOVEMBER), EventKind::Started).unwrap().id;
    assert_eq!(ids(&store.events(None, None).unwrap()), [id]);
    let mut notes = Vec::new();
    store.look_for_lost_events();
    while store.check_some_events(&mut notes).unwrap() {}
    assert_eq!(notes.iter().map(RecoveryNote::events_missing).sum::<u64>(), 1108, "{notes:?}");
    store.append_event(moment(NOVEMBER), notes[0].event()).unwrap();
    drop(store);
    let (store, notes) = Store::open(&path, 0).unwrap();
    assert_eq!((notes, ids(&store.events(None, None).unwrap())), (vec![], vec![1109, 1110]));
}

#[test]
fn damage_that_a_query_meets_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_events(&dir, 1108);
    let store = open(&path);
    let mut notes = Vec::new();
    while store.check_some_events(&mut notes).unwrap() {}
    overwrite(&log_file(&path, 1), 0, &[255; 4]);
    assert!(!store.check_some_events(&mut notes).unwrap(), "all is checked");
    assert_eq!(store.events(None, None).unwrap().len(), 1107);
    while store.check_some_events(&mut notes).unwrap() {}
    assert_eq!(notes.iter().map(RecoveryNote::events_missing).sum::<u64>(), 1, "{notes:?}");
}

#[test]
fn a_store_put_back_from_a_copy_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (with_events(&dir, 5), dir.path().join("copy"));
    let copied = std::process::Command::new("cp").arg("-a").arg(&path).arg(&copy).status().unwrap();
    assert!(copied.success());
    with_events(&dir, 7);
    fs::remove_dir_all(&path).unwrap();
    fs::rename(&copy, &path).unwrap();
    let (store, notes) = Store::open(&path, 0).unwrap();
    assert_eq!(notes, [RecoveryNote::EventsMissing { events: 7, first: 6, last: 12 }]);
    assert_eq!(store.append_event(moment(0), EventKind::Started).unwrap().id, 13);
    assert_eq!(ids(&store.events(None, None).unwrap()), [1, 2, 3, 4, 5, 13]);
}

#[test]
fn a_store_that_moves_is_the_same_one() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (with_events(&dir, 5), dir.path().join("elsewhere"));
    fs::rename(&path, &other).unwrap();
    let (store, notes) = Store::open(&other, 0).unwrap();
    assert_eq!((notes, store.events(None, None).unwrap().len()), (vec![], 5));
}

#[test]
fn who_is_only_in_forgotten_events_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    for person in [1, 2, 1, 3] {
        store.append_event(moment(NOVEMBER), granted(person)).unwrap();
    }
    let renamed = EventKind::Renamed { person: PersonId(2), from: "person 2".into(), to: "Grace".into() };
    store.append_event(moment(NOVEMBER), renamed).unwrap();
    let people = |tree: HashMap<PersonId, String>| {
        let mut people: Vec<_> = tree.into_iter().map(|(person, name)| (person.0, name)).collect();
        people.sort();
        people
    };
    assert_eq!(store.forget_events_up_to(2).unwrap(), 2);
    let named = [(1, "person 1".into()), (2, "Grace".into()), (3, "person 3".into())];
    assert_eq!(people(store.names().unwrap()), named);
    let mut seen: Vec<_> = store.last_granted().unwrap().into_keys().map(|person| person.0).collect();
    seen.sort_unstable();
    assert_eq!(seen, [1, 3], "the visit of 2 is forgotten");
    store.forget_events_up_to(4).unwrap();
    assert_eq!(people(store.names().unwrap()), [(2, "Grace".into())]);
}

#[test]
fn the_oldest_go_when_there_are_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    old_store(&path, 5000);
    let store = open(&path);
    let (nothing_old, all) = (NOVEMBER - HOUR, u64::MAX);
    assert_eq!(store.outlived(nothing_old, all).unwrap(), None);
    assert_eq!(store.outlived(nothing_old, 1200).unwrap(), Some(3800));
    assert_eq!(store.outlived(NOVEMBER + 4_000_500, all).unwrap(), Some(4000));
    assert_eq!(store.outlived(NOVEMBER + 4_000_500, 500).unwrap(), Some(4500), "whichever is more");
    assert_eq!(store.forget_events_up_to(4500).unwrap(), 4500);
    assert_eq!(store.events(None, None).unwrap().len(), 500);
    assert_eq!(store.outlived(NOVEMBER + 4_000_500, 500).unwrap(), None);
}

#[test]
fn a_clock_that_jumps_all_the_time_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    // The time since boot stands still.
    for minute in 0..1500 {
        store.append_event(moment(NOVEMBER + minute * 60_000), granted(1)).unwrap();
    }
    let spans = || store.db.open_tree("spans").unwrap().len();
    assert!((1000..1010).contains(&spans()), "{}", spans());
    let since = store.events(Some(NOVEMBER + 1490 * 60_000), None).unwrap();
    assert_eq!(ids(&since), (1491..=1500).collect::<Vec<_>>());
    let event = &since[0];
    assert_eq!(store.history().unwrap().time(event.stamp()), Some(event.at_ms), "as it was recorded");
    let next = Moment { boot_id: "another".into(), ..moment(NOVEMBER + 2000 * 60_000) };
    let next = store.append_event(next, granted(1)).unwrap();
    assert_eq!(store.history().unwrap().time(next.stamp()), Some(next.at_ms));
}

/// What happens at a door: who is seen, when the clock is set, the machine is started or
/// the program killed.
#[derive(Clone, Debug)]
enum Happens {
    Seen { person: u32, after_s: i64 },
    ClockSet { by_s: i64 },
    Boot { off_s: i64 },
    Killed,
    Forgets { share: f64 },
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        12 => (1..4u32, 0..5000i64).prop_map(|(person, after_s)| Happens::Seen { person, after_s }),
        1 => (-100_000..100_000i64).prop_map(|by_s| Happens::ClockSet { by_s }),
        1 => (1..100_000i64).prop_map(|off_s| Happens::Boot { off_s }),
        1 => Just(Happens::Killed),
        1 => (0.0..1.0).prop_map(|share| Happens::Forgets { share }),
    ]
}

/// What a reading of all events finds.
fn all_read(store: &Store, wanted: Range<i64>) -> (Vec<Event>, Vec<u64>, HashMap<PersonId, i64>) {
    let events = store.events(None, None).unwrap();
    let history = History::of(clock::spans(&events));
    let within = events.iter().filter(|event| history.time(event.stamp()).is_some_and(|at| wanted.contains(&at)));
    let mut last = HashMap::new();
    for event in &events {
        if let EventKind::Granted { person, .. } = event.kind {
            last.insert(person, event.at_ms);
        }
    }
    (events.clone(), within.map(|event| event.id).collect(), last)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_index_says_what_all_events_say(
        story in prop::collection::vec(happens(), 1..60), window in (0..300_000i64, 0..100_000i64)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let mut store = open(&path);
        let (mut now, mut on, mut off_by, mut boot, mut whole) = (NOVEMBER, NOVEMBER - HOUR, 0, 0, true);
        for happens in story {
            match happens {
                Happens::Seen { person, after_s } => {
                    now += after_s * 1000;
                    let (boot_id, since_boot) = (format!("boot {boot}"), Duration::from_millis((now - on) as u64));
                    store.append_event(Moment { at_ms: now + off_by, boot_id, since_boot }, granted(person)).unwrap();
                }
                Happens::ClockSet { by_s } => off_by += by_s * 1000,
                Happens::Boot { off_s } => (now, on, boot) = (now + off_s * 1000, now + off_s * 1000 - 1, boot + 1),
                Happens::Killed => {
                    // What the index noted last is older than it may be at most.
                    store.meta.remove("indexed").unwrap();
                    drop(store);
                    store = open(&path);
                }
                Happens::Forgets { share } => {
                    whole = false;
                    let (count, newest) = { let all = store.events(None, None).unwrap(); (all.len(), all.last().map_or(0, |event| event.id)) };
                    store.forget_events_up_to(newest.saturating_sub((count as f64 * share) as u64)).unwrap();
                }
            }
        }
        let begin = NOVEMBER + window.0 * 1000;
        let wanted = begin..begin + window.1 * 1000;
        let (events, within, last) = all_read(&store, wanted.clone());
        prop_assert_eq!(store.last_granted().unwrap(), last);
        let since: Vec<u64> = events.iter().filter(|event| event.at_ms >= begin).map(|event| event.id).collect();
        prop_assert_eq!(ids(&store.events(Some(begin), None).unwrap()), since.clone());
        prop_assert_eq!(ids(&store.events_after(0, Some(begin), usize::MAX).unwrap()), since.clone());
        let newest = since[since.len().saturating_sub(3)..].to_vec();
        prop_assert_eq!(ids(&store.events(Some(begin), Some(3)).unwrap()), newest);
        let history = store.history().unwrap();
        let mut found = Vec::new();
        store.read_events(history.stretches(wanted.clone()), |event| {
            found.extend(history.time(event.stamp()).filter(|at| wanted.contains(at)).map(|_| event.id));
            true
        }).unwrap();
        // The clock's history outlives the events it is made of.
        prop_assert!(!whole || found == within, "{found:?} {within:?}");
    }
}

const SMALL_DISK: &str = "FACELATCH_SMALL_DISK";

/// The child, on a disk of its own.
#[test]
fn child_on_a_small_disk() {
    let Some(disk) = std::env::var_os(SMALL_DISK).map(PathBuf::from) else { return };
    let (path, filler) = (disk.join("store"), disk.join("filler"));
    let store = open(&path);
    store.put_person(&person(1, "Ada")).unwrap();
    assert!(!store.wants_opening_again(), "all is well");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let long = "x".repeat(40_000);
    let failed = (2..100).find_map(|id| store.put_person(&person(id, &long)).err()).unwrap().to_string();
    assert!(failed.contains("no space left on its disk; make room there"), "{failed}");
    assert!(!failed.contains("Os {"), "{failed}");
    assert!(!store.wants_opening_again(), "there is no room yet");
    drop(file);
    fs::remove_file(&filler).unwrap();
    store.put_person(&person(2, "Grace")).unwrap_err();
    assert!(store.wants_opening_again());
    drop(store);
    let store = open(&path);
    store.put_person(&person(2, "Grace")).unwrap();
    assert_eq!(store.people().unwrap()[0], person(1, "Ada"));
    println!("written again");
}

#[test]
fn a_store_on_a_disk_with_room_again_asks_for_a_new_start() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=3m tmpfs \"$DISK\" || { echo no mount; exit 0; }; exec \"$@\"";
    let output = std::process::Command::new("unshare")
        .args(["-rm", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["store::tests::child_on_a_small_disk", "--exact", "--nocapture"])
        .env("DISK", dir.path())
        .env(SMALL_DISK, dir.path())
        .output();
    let said =
        output.map(|output| [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()));
    match said.map(|said| said.concat()) {
        Ok(said) if said.contains("running 1 test") => assert!(said.contains("written again"), "{said}"),
        said => eprintln!("SKIPPED: no file system can be mounted here: {said:?}"),
    }
}
