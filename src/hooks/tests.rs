use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::mpsc::{Sender, channel},
};

use serde_json::Value;

use super::*;
use crate::{config::EventName, gallery::PersonId, store::EventKind};

fn event(id: u64) -> Event {
    let kind = EventKind::Renamed { person: PersonId(1), from: "Ada".into(), to: format!("Zoë \"{id}\"\n$(rm)") };
    Event { id, at_ms: 1_764_106_201_123, boot_id: String::new(), since_boot: Duration::ZERO, kind }
}

struct Started {
    // Dropped first: then no more events come.
    hooks: Hooks,
    events: Sender<Event>,
    counters: Counters,
}

fn start(hook: HookConfig) -> Started {
    let (events, receiver) = channel();
    let counters = Counters::default();
    let hooks = [HookConfig { on: vec![EventName::Renamed], ..hook }];
    Started { hooks: Hooks::start(&hooks, receiver, &counters).unwrap(), events, counters }
}

fn shell(script: &str, timeout: Duration) -> HookConfig {
    HookConfig { command: ["sh", "-c", script].map(str::to_owned).to_vec(), timeout, ..HookConfig::default() }
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_program_gets_the_event_as_json_and_as_variables() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("told");
    let script = format!("cat >>{0}; echo \"$FACELATCH_EVENT|$FACELATCH_ID|$FACELATCH_FORMER\" >>{0}", file.display());
    let started = start(shell(&script, Duration::from_secs(10)));
    started.events.send(Event { kind: EventKind::Started, ..event(1) }).unwrap();
    started.events.send(event(2)).unwrap();
    // The end lets it do what it has to do.
    drop(started.hooks);
    let told = lines(&file);
    assert_eq!(told.len(), 2, "the start is not for this hook: {told:?}");
    let json: serde_json::Value = serde_json::from_str(&told[0]).unwrap();
    assert_eq!((json["event_type"].as_str(), json["person"].as_str()), (Some("renamed"), Some("Zoë \"2\"\n$(rm)")));
    assert_eq!(told[1], "renamed|2|Ada");
}

/// A process that is killed, but not reaped by its new parent yet, is in state Z.
fn alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|status| !status.contains(") Z"))
}

#[test]
fn a_program_that_hangs_is_killed_with_its_children_and_the_next_event_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let script = format!("sleep 60 & echo $! >>{}; wait", file.display());
    let started = start(shell(&script, Duration::from_millis(300)));
    started.events.send(event(1)).unwrap();
    started.events.send(event(2)).unwrap();
    wait_until("both are killed", || started.counters.get("hooks_failed") == 2);
    let pids = lines(&file);
    assert_eq!(pids.len(), 2);
    wait_until("the group is killed", || pids.iter().all(|pid| !alive(pid)));
}

#[test]
fn a_program_that_hangs_loses_its_own_events_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("told");
    let (events, receiver) = channel();
    let counters = Counters::default();
    let on = vec![EventName::Renamed];
    let hanging = HookConfig { on: on.clone(), ..shell("sleep 60", Duration::from_secs(60)) };
    let good = HookConfig { on, ..shell(&format!("echo $FACELATCH_ID >>{}", file.display()), Duration::from_secs(10)) };
    let hooks = Hooks::start(&[hanging, good], receiver, &counters).unwrap();
    let count = QUEUE as u64 + 40;
    for id in 1..=count {
        events.send(event(id)).unwrap();
        // As fast as the good one goes.
        wait_until("the other one is served", || lines(&file).len() as u64 == id);
    }
    // One is with the program, so many wait.
    assert_eq!(counters.get("hook_events_lost"), count - QUEUE as u64 - 1);
    assert_eq!(counters.get("hook_queue"), QUEUE as u64);
    let stopped = Instant::now();
    drop(hooks);
    assert!(stopped.elapsed() < FAREWELL * 2, "{:?}", stopped.elapsed());
}

#[test]
fn a_program_that_fails_or_is_not_there_is_counted() {
    let talkative = start(shell("yes | head -c 1000000; echo no such lamp >&2; exit 3", Duration::from_secs(10)));
    talkative.events.send(event(1)).unwrap();
    wait_until("its end is seen", || talkative.counters.get("hooks_failed") == 1);
    let missing = start(HookConfig { command: vec!["/no/such/program".into()], ..HookConfig::default() });
    missing.events.send(event(1)).unwrap();
    wait_until("it cannot be started", || missing.counters.get("hooks_failed") == 1);
}

#[test]
fn why_a_program_failed_is_told() {
    let Value::Object(notice) = serde_json::json!({ "event_type": "denied" }) else { unreachable!() };
    let run = |script: &str, timeout| command::run(&shell(script, timeout), &notice, "hook", &Stop::default());
    let second = Duration::from_secs(1);
    assert_eq!(run("cat", second), Ok(()));
    let error = run("echo no such lamp >&2; exit 3", second).unwrap_err();
    assert!(error.contains("exit status: 3") && error.contains("no such lamp"), "{error}");
    let error = run("echo waiting; sleep 60", second / 5).unwrap_err();
    assert!(error.contains("killed after") && error.contains("waiting"), "{error}");
    let begun = Instant::now();
    assert_eq!(run("sleep 60 & exit 0", second * 30), Ok(()), "what it left behind is not waited for");
    assert!(begun.elapsed() < second * 5);
}

/// A request as it came: its head and its body.
fn read_request(stream: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return (head.to_owned(), body.to_owned());
            }
        }
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "the request is not whole: {text}");
        bytes.extend_from_slice(&chunk[..count]);
    }
}

/// A server that gives these answers, one after the other, and what it was asked.
fn server(answers: &'static [&'static str]) -> (String, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/door?key=1", listener.local_addr().unwrap());
    let (sender, requests) = channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            sender.send(read_request(&mut stream)).unwrap();
            stream.write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
        }
    });
    (url, requests)
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn an_address_is_told_signed_and_again_when_it_is_in_trouble() {
    let (url, requests) = server(&["503 Service Unavailable", "204 No Content"]);
    let started = start(HookConfig { url, secret: "k3y".into(), ..HookConfig::default() });
    started.events.send(event(5)).unwrap();
    let mut sent = Vec::new();
    for _ in 0..2 {
        let (head, body) = requests.recv_timeout(PATIENCE).unwrap();
        assert!(head.starts_with("POST /door?key=1 HTTP/1.1\r\n"), "{head}");
        let head = head.to_lowercase();
        let signature = head.split("x-facelatch-signature: sha256=").nth(1).unwrap().lines().next().unwrap();
        let mut mac = <hmac::Hmac<sha2::Sha256> as hmac::KeyInit>::new_from_slice(b"k3y").unwrap();
        hmac::Mac::update(&mut mac, body.as_bytes());
        let bytes: Vec<u8> =
            (0..signature.len()).step_by(2).map(|i| u8::from_str_radix(&signature[i..i + 2], 16).unwrap()).collect();
        hmac::Mac::verify_slice(mac, &bytes).unwrap();
        let json: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((json["id"].as_u64(), json["at"].as_str()), (Some(5), Some("2025-11-25T21:30:01.123Z")));
        sent.push(json["sent_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
    }
    assert!(sent[1] > sent[0], "each attempt says when it was made");
    drop(started.hooks);
    assert_eq!(started.counters.get("hooks_failed"), 0);
}

/// How an address is told that gives this answer, and how many requests it got.
fn told(answers: &'static [&'static str]) -> (String, usize) {
    let (url, requests) = server(answers);
    let Value::Object(notice) = serde_json::json!({ "event_type": "denied" }) else { unreachable!() };
    let config = HookConfig { url, timeout: Duration::from_secs(5), ..HookConfig::default() };
    let problem = address::tell(&config, notice, "hook", &Stop::default()).unwrap_err();
    (problem, requests.try_iter().count())
}

#[test]
fn an_address_that_refuses_or_sends_elsewhere_is_not_asked_again() {
    let (problem, requests) = told(&["400 Bad Request", "204 No Content"]);
    assert!(problem.contains("400") && requests == 1, "{problem}, {requests}");
    let (problem, requests) = told(&["307 Temporary Redirect\r\nLocation: /door?key=2", "204 No Content"]);
    assert!(problem.contains("307") && problem.contains("hooks.url") && requests == 1, "{problem}, {requests}");
}

#[test]
fn an_address_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = HookConfig {
        url: format!("http://{}/", listener.local_addr().unwrap()),
        timeout: Duration::from_millis(100),
        ..HookConfig::default()
    };
    let Value::Object(notice) = serde_json::json!({ "event_type": "denied" }) else { unreachable!() };
    let begun = Instant::now();
    let problem = address::tell(&config, notice, "hook", &Stop::default()).unwrap_err();
    assert!(problem.contains("timeout") && problem.contains("attempt 4 of 4"), "{problem}");
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[test]
fn a_secret_that_is_not_there_is_named_and_nothing_is_sent_unsigned() {
    let (url, requests) = server(&["204 No Content"]);
    let started = start(HookConfig { url, secret: "${credential:hook}".into(), ..HookConfig::default() });
    started.events.send(event(1)).unwrap();
    wait_until("it fails", || started.counters.get("hooks_failed") == 1);
    assert!(requests.try_recv().is_err());
}

#[test]
fn an_address_is_named_without_its_secrets() {
    let who = |url: &str| who(&HookConfig { url: url.into(), ..HookConfig::default() });
    assert_eq!(who("https://user:pass@example.org:8443/hooks/t0ken?x"), "example.org:8443");
    assert_eq!(who("http://example.org"), "example.org");
}
