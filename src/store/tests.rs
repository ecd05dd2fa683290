use super::*;

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
    let store = open(dir.path());
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
    let store = open(dir.path());
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
    let _first = open(dir.path());
    let error = Store::open(dir.path(), 0).err().expect("the store is taken");
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("another facelatch"));
}

#[test]
fn a_store_of_a_newer_program_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write(&store.meta, b"schema", 99u32.to_be_bytes().to_vec()).unwrap();
    drop(store);
    assert!(matches!(Store::open(dir.path(), 0), Err(StoreError::Newer { found: 99, .. })));
}

#[test]
fn a_damaged_record_is_skipped_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.put_person(&person(1, "Ada")).unwrap();
    store.put_person(&person(2, "Grace")).unwrap();
    store.write(&store.people, &2u32.to_be_bytes(), b"rubbish".to_vec()).unwrap();
    drop(store);
    let (store, notes) = Store::open(dir.path(), 0).unwrap();
    assert_eq!(store.people().unwrap(), [person(1, "Ada")]);
    assert_eq!(notes, [RecoveryNote::RecordsSkipped { count: 1 }]);
}

#[test]
fn a_snapshot_that_was_being_written_does_not_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).put_person(&person(1, "Ada")).unwrap();
    fs::write(dir.path().join("snap.0000000000000042.generating"), "torn").unwrap();
    assert_eq!(open(dir.path()).people().unwrap(), [person(1, "Ada")]);
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
