//! Removed means removed, and who is let in: real nets, real store, a door that is played
//! from pictures.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use facelatch::{
    api::{Ask, Status, ask},
    config::Config,
    control::{ControlClient, ControlError},
    service::Services,
    store::{EventKind, Store},
};

use crate::{
    door::{Running, config, enroll, play},
    support::{beside_checkout, root, too_slow_here},
};

const OBAMA: &str = "barack_obama_1.png";

fn follow(running: &mut Running) {
    running.client.ask(ask::Events { follow: true, ..ask::Events::default() }).unwrap();
}

fn ask<Q: Ask>(config: &Config, question: Q) -> Result<Q::Answer, ControlError> {
    ControlClient::connect(&config.control.socket).unwrap().ask(question)
}

fn status(config: &Config) -> Status {
    ask(config, ask::Status {}).unwrap()
}

fn is_grant(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Granted { .. })
}

fn is_forgotten(kind: &EventKind, who: &str) -> bool {
    matches!(kind, EventKind::Forgotten { name, .. } if name == who)
}

fn remove(dir: &Path, name: &str) {
    fs::remove_file(dir.join("enroll").join(name)).unwrap();
}

/// All that happened, oldest first.
fn events(config: &Config) -> Vec<EventKind> {
    let events = Store::open(&config.store.path, 0).unwrap().0.events(None, None).unwrap();
    events.into_iter().map(|event| event.kind).collect()
}

#[test]
fn a_removed_person_is_never_let_in_again() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 14), (OBAMA, 10)]);
    let mut config = config(dir.path());
    config.recognition.false_match_rate.0 = 1e-7;
    enroll(dir.path(), "eileen_collins_1.png", "Eileen");
    enroll(dir.path(), "grace_hopper_1.png", "Grace");
    let mut running = Running::start(&config);
    follow(&mut running);
    running.next_event(is_grant);
    // One more than this rate can be kept for: refused, and the door goes on.
    enroll(dir.path(), "joe_biden_1.png", "Joe");
    let kind = running.next_event(|kind| matches!(kind, EventKind::Refused { .. }));
    assert!(matches!(&kind, EventKind::Refused { reason, .. } if reason.contains("nobody more")), "{kind:?}");
    running.next_event(is_grant);
    remove(dir.path(), "Barack Obama.png");
    running.next_event(|kind| is_forgotten(kind, "Barack Obama"));
    running.next_event(|kind| matches!(kind, EventKind::Enrolled { name, .. } if name == "Joe"));
    for _ in 0..3 {
        running.next_event(|kind| matches!(kind, EventKind::Denied { .. }));
    }
    drop(running);
    let events = events(&config);
    let forgotten = events.iter().position(|kind| is_forgotten(kind, "Barack Obama")).unwrap();
    assert!(!events[forgotten..].iter().any(is_grant), "{:?}", &events[forgotten..]);
}

#[test]
fn without_a_threshold_nobody_is_let_in_and_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 14), (OBAMA, 10)]);
    let mut config = config(dir.path());
    for (file, name) in
        [("eileen_collins_1.png", "Eileen"), ("grace_hopper_1.png", "Grace"), ("joe_biden_1.png", "Joe")]
    {
        enroll(dir.path(), file, name);
    }
    drop(Services::open(config.clone()).unwrap());
    config.recognition.false_match_rate.0 = 1e-7;
    let mut running = Running::start(&config);
    follow(&mut running);
    let problems = status(&config).problems;
    assert!(problems[0].contains("nobody is let in") && problems[0].contains("false_match_rate"), "{problems:?}");
    running.next_event(|kind| matches!(kind, EventKind::Denied { .. }));
    remove(dir.path(), "Joe.png");
    running.next_event(is_grant);
    assert_eq!(status(&config).problems, [""; 0]);
    drop(running);
    let events = events(&config);
    assert!(events.iter().any(|kind| matches!(kind, EventKind::ShutOut { names, .. } if names.is_empty())));
    let forgotten = events.iter().position(|kind| is_forgotten(kind, "Joe")).unwrap();
    assert!(!events[..forgotten].iter().any(is_grant), "{events:?}");
}

#[test]
fn a_pair_too_near_is_kept_out_and_the_rest_let_in() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 4), ("barack_obama_3.png", 12), ("", 14), ("eileen_collins_1.png", 12), ("", 4)]);
    let mut config = config(dir.path());
    enroll(dir.path(), "barack_obama_2.png", "Barry");
    enroll(dir.path(), "eileen_collins_1.png", "Eileen");
    // Enrolled while the limit was closer.
    config.recognition.max_distance = Some(0.2);
    drop(Services::open(config.clone()).unwrap());
    config.recognition.max_distance = None;
    facelatch::daemon::run(config.clone(), &facelatch::daemon::Signals::default()).unwrap();
    let events = events(&config);
    let let_in = events.iter().filter_map(|kind| match kind {
        EventKind::Granted { name, .. } => Some(name.as_str()),
        _ => None,
    });
    assert_eq!(let_in.collect::<Vec<_>>(), ["Eileen"]);
    let kept_out = events.iter().any(|kind| {
        matches!(kind, EventKind::ShutOut { names, reason } if *names == ["Barack Obama", "Barry"] && reason.contains("apart"))
    });
    assert!(kept_out, "{events:?}");
}

/// Pictures of one face that differ in their bytes only.
fn drop_many(dir: &Path, count: usize) {
    let picture = fs::read(root().join("tests/data/grace_hopper_1.png")).unwrap();
    for i in 0..count {
        fs::write(dir.join(format!("enroll/New {i}.png")), [&picture[..], i.to_string().as_bytes()].concat()).unwrap();
    }
}

#[test]
fn removals_and_commands_go_before_new_pictures() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = config(dir.path());
    let mut running = Running::start(&config);
    follow(&mut running);
    const MANY: usize = 80;
    drop_many(dir.path(), MANY);
    running.next_event(|kind| matches!(kind, EventKind::Refused { .. }));
    assert!(status(&config).people == 2, "the first was enrolled at once");
    remove(dir.path(), "Barack Obama.png");
    let picture = fs::read(root().join("tests/data/joe_biden_1.png")).unwrap();
    let asked = Instant::now();
    let answer = ask(&config, ask::Enroll { name: "Joe".into(), file_name: "joe.png".into(), picture });
    let took = asked.elapsed();
    assert!(answer.is_ok(), "{answer:?}");
    for _ in 1..MANY - 1 {
        running.next_event(|kind| matches!(kind, EventKind::Refused { .. }));
    }
    drop(running);
    let events = events(&config);
    let refused_after = |event: &dyn Fn(&EventKind) -> bool| {
        let at = events.iter().position(event).unwrap();
        events[at..].iter().filter(|kind| matches!(kind, EventKind::Refused { .. })).count()
    };
    let forgotten = refused_after(&|kind| is_forgotten(kind, "Barack Obama"));
    let enrolled = refused_after(&|kind| matches!(kind, EventKind::Enrolled { name, .. } if name == "Joe"));
    assert!(forgotten > MANY / 4 && enrolled > MANY / 8, "{forgotten} {enrolled}");
    // A second, if the machine does nothing else.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// The pictures of each person of a collection.
fn people_of(collection: &Path) -> Vec<Vec<PathBuf>> {
    let entries = |path: &Path| {
        let mut paths: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    entries(collection).into_iter().filter(|path| path.is_dir()).map(|path| entries(&path)).collect()
}

/// Folders of two right pictures, before which by name stands a wrong one: how many are
/// enrolled right?
#[test]
fn a_wrong_picture_first_does_not_decide_who_it_is() {
    const FOLDERS: usize = 150;
    if too_slow_here("450 pictures") {
        return;
    }
    let Some(collection) = beside_checkout("data/lfw-dev") else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let people = people_of(&collection);
    let strangers: Vec<&PathBuf> = people.iter().filter(|own| own.len() == 1).map(|own| &own[0]).collect();
    let several = people.iter().filter(|own| own.len() > 1).take(FOLDERS);
    let long_ago = SystemTime::now() - Duration::from_secs(60);
    for (i, own) in several.enumerate() {
        let folder = dir.path().join(format!("enroll/P{i}"));
        fs::create_dir(&folder).unwrap();
        for (name, from) in [("a", strangers[i * 7]), ("b", &own[0]), ("c", &own[1])] {
            let to = folder.join(format!("{name}.jpg"));
            fs::copy(from, &to).unwrap();
            fs::File::options().append(true).open(&to).unwrap().set_modified(long_ago).unwrap();
        }
    }
    let (services, changes) = Services::open(config).unwrap();
    assert_eq!(services.status().pid, 0);
    let accepted = |i: usize| {
        let of = |(_, name, key): &(_, String, String)| (*name == format!("P{i}")).then(|| key.clone());
        let keys: String = changes.accepted.iter().filter_map(of).filter_map(|key| key.chars().rev().nth(4)).collect();
        let mut letters: Vec<char> = keys.chars().collect();
        letters.sort_unstable();
        letters.into_iter().collect::<String>()
    };
    // What is refused for itself says nothing about the judgement.
    let of_others = ["looks like", "does not look like", "does not show", "the same picture"];
    let unusable: HashSet<&str> = changes
        .refused
        .iter()
        .filter(|(.., reason)| !of_others.iter().any(|start| reason.starts_with(start)))
        .map(|(name, ..)| name.as_str())
        .collect();
    let usable = (0..FOLDERS).filter(|i| !unusable.contains(format!("P{i}").as_str()));
    for (what, folders) in [("all", (0..FOLDERS).collect::<Vec<_>>()), ("usable", usable.collect())] {
        let outcomes: Vec<String> = folders.into_iter().map(accepted).collect();
        let count = |wanted: &[&str]| outcomes.iter().filter(|outcome| wanted.contains(&outcome.as_str())).count();
        let (right, stranger) = (count(&["bc"]), count(&["a"]));
        eprintln!(
            "{} folders ({what}): the right ones {right}, one of them {}, all three {}, the stranger and one {}, \
             the stranger only {stranger}, nobody {}",
            outcomes.len(),
            count(&["b", "c"]),
            count(&["abc"]),
            count(&["ab", "ac"]),
            count(&[""]),
        );
        if what == "usable" {
            assert!(stranger == 0 && right * 100 > outcomes.len() * 75, "{outcomes:?}");
        } else {
            assert!(stranger * 25 < outcomes.len(), "{outcomes:?}");
        }
    }
}
