//! The broker: a real mosquitto, and the program as people start it.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use facelatch::{
    api::{Ask, Status, ask},
    control::ControlClient,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    door,
    support::{command, root, skipped},
};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";
const PATIENCE: Duration = Duration::from_secs(30);
const PREFIX: &str = "house/door";
/// What facelatch needs to be allowed, as docs/home-automation.md says it.
const RIGHTS: &str = "user door\ntopic write house/door/#\ntopic write homeassistant/+/house_door/+/config\ntopic read house/door/command\n";

/// Whether there is a broker to test with.
fn no_mosquitto() -> bool {
    let there = Path::new(MOSQUITTO).exists();
    assert!(
        there || env::var("FACELATCH_MOSQUITTO").as_deref() != Ok("required"),
        "{MOSQUITTO} is not there: apt install mosquitto mosquitto-clients"
    );
    if !there {
        skipped("the broker: mosquitto is not installed (make mqtt installs it)");
    }
    !there
}

fn wait_until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < until, "waited for: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A mosquitto on a port of its own, with a password and, on another port, TLS.
struct Broker {
    dir: tempfile::TempDir,
    port: u16,
    tls_port: u16,
    process: Option<Child>,
}

impl Broker {
    fn start() -> Broker {
        let dir = tempfile::tempdir().unwrap();
        let [port, tls_port] = free_ports();
        let path = dir.path();
        run("mosquitto_passwd", &["-b", "-c", "passwords", "door", "s3cret"], path);
        run("mosquitto_passwd", &["-b", "passwords", "home", "assistant"], path);
        let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "ca.key"];
        run("openssl", &[&request[..], &["-out", "ca.pem", "-subj", "/CN=House"]].concat(), path);
        let request = ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", "broker.key", "-out", "broker.csr"];
        run("openssl", &[&request[..], &["-subj", "/CN=localhost"]].concat(), path);
        fs::write(path.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
        let sign = ["x509", "-req", "-in", "broker.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        run("openssl", &[&sign[..], &["-days", "2", "-extfile", "names", "-out", "broker.pem"]].concat(), path);
        // Whoever runs the tests as root runs mosquitto as root.
        let user = env::var("USER").unwrap_or_else(|_| "root".into());
        let (folder, config) = (path.display(), path.join("mosquitto.conf"));
        let text = format!(
            "user {user}\nper_listener_settings false\nallow_anonymous false\npassword_file {folder}/passwords\n\
             acl_file {folder}/acl\npersistence true\npersistence_location {folder}/\nautosave_interval 0\n\
             max_queued_messages 10000\nlog_dest file {folder}/log\n\
             listener {port} 127.0.0.1\nlistener {tls_port} 127.0.0.1\n\
             certfile {folder}/broker.pem\nkeyfile {folder}/broker.key\n"
        );
        fs::write(config, text).unwrap();
        fs::write(path.join("acl"), format!("{RIGHTS}\nuser home\ntopic readwrite #\n")).unwrap();
        let mut broker = Broker { dir, port, tls_port, process: None };
        broker.resume();
        broker
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn resume(&mut self) {
        let mut mosquitto = Command::new(MOSQUITTO);
        mosquitto.arg("-c").arg(self.path("mosquitto.conf")).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(mosquitto.spawn().unwrap());
        wait_until("mosquitto listens", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// In good order: it writes down what it has to keep.
    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
            process.wait().unwrap();
        }
    }

    fn client(&self, program: &str) -> Command {
        let mut client = Command::new(program);
        client.args(["-V", "5", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-u", "home", "-P", "assistant"]);
        client
    }

    fn publish(&self, arguments: &[&str]) {
        let output = self.client("mosquitto_pub").args(["-q", "1"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn listen(&self) -> Listener {
        Listener::start(self, &[])
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            eprintln!("mosquitto:\n{}", fs::read_to_string(self.path("log")).unwrap_or_default());
        }
    }
}

fn free_ports() -> [u16; 2] {
    let listeners = [0, 0].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

#[derive(Clone, Debug)]
struct Message {
    retained: bool,
    topic: String,
    payload: String,
}

impl Message {
    fn json(&self) -> Value {
        serde_json::from_str(&self.payload).unwrap()
    }
}

/// A mosquitto_sub that hears everything.
struct Listener {
    process: Child,
    heard: Arc<Mutex<Vec<Message>>>,
}

impl Listener {
    fn start(broker: &Broker, arguments: &[&str]) -> Listener {
        let mut sub = broker.client("mosquitto_sub");
        sub.args(["-q", "1", "-t", "#", "-F", "%r %t %p", "--retain-as-published"]).args(arguments);
        let mut process = sub.stdout(Stdio::piped()).spawn().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (lines, kept) = (BufReader::new(process.stdout.take().unwrap()).split(b'\n'), Arc::clone(&heard));
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                let mut parts = line.splitn(3, ' ').map(str::to_owned);
                let (Some(retained), Some(topic), Some(payload)) = (parts.next(), parts.next(), parts.next()) else {
                    continue;
                };
                kept.lock().unwrap().push(Message { retained: retained == "1", topic, payload });
            }
        });
        Listener { process, heard }
    }

    fn heard(&self, topic: &str) -> Vec<Message> {
        self.heard.lock().unwrap().iter().filter(|message| message.topic == topic).cloned().collect()
    }

    fn wait_for(&self, topic: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        wait_until(topic, || self.heard(topic).into_iter().find(|message| wanted(message)))
    }

    fn events(&self) -> Vec<Value> {
        self.heard(&format!("{PREFIX}/event")).iter().map(Message::json).collect()
    }

    fn wait_for_event(&self, event_type: &str) -> Value {
        wait_until(event_type, || self.events().into_iter().find(|event| event["event_type"] == event_type))
    }

    /// The newest state or availability is this.
    fn wait_for_last(&self, topic: &str, wanted: impl Fn(&str) -> bool) {
        wait_until(topic, || self.heard(topic).last().filter(|message| wanted(&message.payload)).map(drop));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A door in a folder of its own, and the program that watches it.
struct House {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
    log: Arc<Mutex<String>>,
}

impl House {
    /// `mqtt`: the section's keys.
    fn start(mqtt: &str) -> House {
        House::start_in("unlock", mqtt)
    }

    fn start_in(mode: &str, mqtt: &str) -> House {
        let dir = tempfile::tempdir().unwrap();
        door::config(dir.path());
        door::play(dir.path(), &[("", 2)]);
        let text = format!(
            "mode = \"{mode}\"\n[models]\ndir = \"{}\"\nprecision = \"w8\"\n[enroll]\nfolder = \"enroll\"\n[store]\npath = \"store\"\n\
             [recognition]\nmax_decision_age = \"10s\"\nvisit_gap = \"500ms\"\ncooldown = \"0s\"\n\
             [latch]\nbackend = \"simulated\"\nline = 17\nhold = \"400ms\"\n[control]\nsocket = \"control.sock\"\n\
             [camera]\nsource = \"files\"\nfolder = \"frames\"\nrepeat = true\nfps = 20\n[mqtt]\nprefix = \"{PREFIX}\"\n{mqtt}\n",
            root().join("models").display(),
        );
        fs::write(dir.path().join("facelatch.toml"), text).unwrap();
        let mut house = House { dir, daemon: None, log: Arc::default() };
        house.resume();
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn resume(&mut self) {
        let mut daemon = command(env!("CARGO_BIN_EXE_facelatch"));
        daemon.arg("--config").arg(self.path("facelatch.toml")).arg("run").env_remove("RUST_LOG");
        let mut daemon = daemon.stderr(Stdio::piped()).spawn().unwrap();
        let (lines, log) = (BufReader::new(daemon.stderr.take().unwrap()).lines(), Arc::clone(&self.log));
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *log.lock().unwrap() += &(line + "\n");
            }
        });
        self.daemon = Some(daemon);
        wait_until("the daemon answers", || self.ask(ask::Status {}));
    }

    fn stop_by(&mut self, signal: Signal) {
        if let Some(mut daemon) = self.daemon.take() {
            kill_process(Pid::from_child(&daemon), signal).unwrap();
            daemon.wait().unwrap();
        }
    }

    fn ask<Q: Ask>(&self, question: Q) -> Option<Q::Answer> {
        ControlClient::connect(&self.path("control.sock")).ok()?.ask(question).ok()
    }

    fn open(&self) {
        assert_eq!(self.ask(ask::Open {}), Some(()));
    }

    fn status(&self) -> Status {
        self.ask(ask::Status {}).expect("it answers")
    }

    fn counted(&self, counter: &str) -> u64 {
        self.status().counters.get(counter).copied().unwrap_or(0)
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop_by(Signal::KILL);
        if thread::panicking() {
            eprintln!("facelatch:\n{}", self.log());
        }
    }
}

fn plain(broker: &Broker) -> String {
    format!("broker = \"mqtt://127.0.0.1:{}\"\nuser = \"door\"\npassword = \"s3cret\"\n", broker.port)
}

fn topic(name: &str) -> String {
    format!("{PREFIX}/{name}")
}

#[test]
fn a_home_automation_sees_the_door_and_who_came() {
    if no_mosquitto() {
        return;
    }
    let broker = Broker::start();
    let listener = broker.listen();
    let mut house = House::start(&plain(&broker));
    listener.wait_for(&topic("availability"), |message| message.payload == "online");
    // Whoever comes later is told the same: it is kept by the broker.
    let later = broker.listen();
    let state = later.wait_for(&topic("state"), |_| true);
    let online = later.wait_for(&topic("availability"), |_| true);
    assert!(state.retained && online.retained && online.payload == "online");
    assert_eq!((&state.json()["mode"], &state.json()["people"]), (&"unlock".into(), &1.into()));
    let door = later.wait_for("homeassistant/binary_sensor/house_door/lock/config", |_| true);
    assert!(door.retained);
    assert_eq!(door.json()["state_topic"], topic("state"));
    assert_eq!(door.json()["availability_topic"], topic("availability"));
    assert!(later.heard("homeassistant/button/house_door/open/config").is_empty(), "no button unless it is allowed");
    let started = listener.wait_for_event("started");
    assert!(started["at"].as_str().unwrap().ends_with('Z'), "{started}");

    house.open();
    listener.wait_for(&topic("state"), |message| message.json()["relay_active"] == true);
    listener.wait_for_last(&topic("state"), |state| state.contains("\"relay_active\":false"));
    listener.wait_for_event("opened");
    // Somebody comes.
    for frame in fs::read_dir(house.path("frames")).unwrap() {
        fs::remove_file(frame.unwrap().path()).unwrap();
    }
    house.stop_by(Signal::TERM);
    listener.wait_for_last(&topic("availability"), |payload| payload == "offline");
    listener.wait_for_event("stopped");
    door::play(house.dir.path(), &[("barack_obama_2.png", 12), ("", 14)]);
    house.resume();
    let granted = listener.wait_for_event("granted");
    assert_eq!(granted["person"], "Barack Obama");
    assert_eq!(granted["pulsed"], true);
    listener.wait_for_last(&topic("state"), |state| state.contains("\"last_person\":\"Barack Obama\""));
    // No alarm of a camera that was only opened, one when it is really gone, and an all-clear.
    let camera = || {
        let states = listener.heard(&topic("state"));
        let mut camera: Vec<bool> = states.iter().map(|state| state.json()["camera_ok"].as_bool().unwrap()).collect();
        camera.dedup();
        camera
    };
    assert_eq!(camera(), [true]);
    fs::rename(house.path("frames"), house.path("away")).unwrap();
    let lost = listener.wait_for_event("camera_lost");
    assert!(lost["problem"].as_str().unwrap().contains("frames"), "{lost}");
    wait_until("the alarm", || (camera() == [true, false]).then_some(()));
    fs::rename(house.path("away"), house.path("frames")).unwrap();
    wait_until("the all-clear", || (camera() == [true, false, true]).then_some(()));
    let topics: Vec<String> = listener.heard.lock().unwrap().iter().map(|message| message.topic.clone()).collect();
    assert!(topics.iter().all(|topic| !topic.contains("Obama")), "names stand in JSON only");
}

#[test]
fn killed_it_is_offline_by_its_last_will() {
    if no_mosquitto() {
        return;
    }
    let broker = Broker::start();
    let listener = broker.listen();
    let mut house = House::start(&plain(&broker));
    listener.wait_for(&topic("availability"), |message| message.payload == "online");
    house.stop_by(Signal::KILL);
    listener.wait_for_last(&topic("availability"), |payload| payload == "offline");
    house.resume();
    listener.wait_for_last(&topic("availability"), |payload| payload == "online");
}

#[test]
fn tls_is_used_and_a_broker_that_nobody_certifies_gets_nothing() {
    if no_mosquitto() {
        return;
    }
    let broker = Broker::start();
    let listener = broker.listen();
    fs::write(broker.path("password"), "s3cret\n").unwrap();
    let at = |ca: &str, password: &str| {
        let broker_at = format!("broker = \"mqtts://localhost:{}\"\nca = \"{}\"\n", broker.tls_port, broker.path(ca));
        format!("{broker_at}user = \"door\"\npassword_file = \"{}\"\n", broker.path(password))
    };
    let house = House::start(&at("ca.pem", "password"));
    listener.wait_for_last(&topic("availability"), |payload| payload == "online");
    drop(house);
    listener.wait_for_last(&topic("availability"), |payload| payload == "offline");
    run(
        "openssl",
        &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "other.pem", "-subj", "/CN=O"],
        broker.dir.path(),
    );
    fs::write(broker.path("wrong"), "wrong\n").unwrap();
    for (ca, password, word) in [
        ("other.pem", "password", "mqtt.ca"),
        ("ca.pem", "wrong", "check mqtt.user"),
        ("none.pem", "password", "none.pem"),
        ("ca.pem", "none", "mqtt.password_file"),
    ] {
        let house = House::start(&at(ca, password));
        wait_until(word, || house.log().contains(word).then_some(()));
        house.open();
        assert!(!house.log().contains("s3cret") && !house.log().contains("connected"), "{}", house.log());
    }
    assert_eq!(listener.heard(&topic("availability")).last().unwrap().payload, "offline");
}

#[test]
fn events_wait_for_a_broker_that_is_away_the_oldest_go_first_and_it_is_said_once() {
    if no_mosquitto() {
        return;
    }
    let mut broker = Broker::start();
    // It keeps everything for this one, also while it is gone.
    let persistent = ["-c", "-i", "home", "-x", "3600"];
    let first = Listener::start(&broker, &persistent);
    let house = House::start(&format!("{}queue = 3\n", plain(&broker)));
    first.wait_for_event("started");
    drop(first);
    broker.stop();
    wait_until("the loss is noticed", || house.log().contains("trying again").then_some(()));
    for _ in 0..5 {
        house.open();
        thread::sleep(Duration::from_millis(50));
    }
    let away = Instant::now();
    // Several attempts fail.
    thread::sleep(Duration::from_secs(4));
    broker.resume();
    wait_until("it is back", || house.log().contains("connected after").then_some(()));
    let listener = Listener::start(&broker, &persistent);
    let opened = || listener.events().into_iter().filter(|event| event["event_type"] == "opened").collect::<Vec<_>>();
    wait_until("the events that waited", || (opened().len() >= 3).then_some(()));
    house.open();
    let events = wait_until("one after it", || Some(opened()).filter(|events| events.len() >= 4));
    let ids: Vec<u64> = events.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (ids[0]..ids[0] + 4).collect::<Vec<_>>(), "in order, none twice");
    let newest: jiff::Timestamp = events[2]["at"].as_str().unwrap().parse().unwrap();
    let back = jiff::Timestamp::now().as_millisecond() - newest.as_millisecond();
    assert!(
        back > 3000 && back as u128 >= away.elapsed().as_millis().saturating_sub(100),
        "their own time: {back} ms ago"
    );
    assert_eq!(house.counted("mqtt_events_lost"), 2);
    let log = house.log();
    for said in ["trying again", "more than 3 events wait", "3 events to tell, 2 older ones were dropped"] {
        assert_eq!(log.matches(said).count(), 1, "{said}: {log}");
    }
}

#[test]
fn a_message_opens_only_if_that_is_allowed() {
    if no_mosquitto() {
        return;
    }
    let broker = Broker::start();
    let listener = broker.listen();
    for (mode, allowed) in [("unlock", "false"), ("attendance", "true")] {
        let house = House::start_in(mode, &format!("{}allow_open = {allowed}\n", plain(&broker)));
        listener.wait_for_last(&topic("availability"), |payload| payload == "online");
        broker.publish(&["-t", &topic("command"), "-m", "open"]);
        thread::sleep(Duration::from_secs(1));
        assert_eq!(house.counted("opened_by_hand"), 0, "{mode}, allowed: {allowed}");
        drop(house);
        listener.wait_for_last(&topic("availability"), |payload| payload == "offline");
    }
    let button = "homeassistant/button/house_door/open/config";
    assert!(listener.heard(button).iter().all(|message| message.payload.is_empty()));
    // Kept from before: whoever wanted in then is gone.
    broker.publish(&["-t", &topic("command"), "-m", "open", "-r"]);
    let house = House::start(&format!("{}allow_open = true\n", plain(&broker)));
    let button = listener.wait_for(button, |message| !message.payload.is_empty()).json();
    listener.wait_for_last(&topic("availability"), |payload| payload == "online");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(house.counted("opened_by_hand"), 0, "a retained command");
    let (command, press) = (button["command_topic"].as_str().unwrap(), button["payload_press"].as_str().unwrap());
    for _ in 0..3 {
        broker.publish(&["-t", command, "-m", press]);
    }
    let opened = listener.wait_for_event("opened");
    assert_eq!(opened["by"], "the broker");
    wait_until("the others came too soon", || (house.counted("mqtt_commands_ignored") == 2).then_some(()));
    assert_eq!(house.counted("opened_by_hand"), 1);
}

#[test]
fn hostile_messages_change_nothing() {
    if no_mosquitto() {
        return;
    }
    let broker = Broker::start();
    let listener = broker.listen();
    let house = House::start(&format!("{}allow_open = true\n", plain(&broker)));
    listener.wait_for_last(&topic("availability"), |payload| payload == "online");
    fs::write(broker.path("huge"), vec![b'o'; 20_000_000]).unwrap();
    fs::write(broker.path("binary"), [0, 0xff, 0xfe, b'\n', 0xc3, 0x28, 0]).unwrap();
    fs::write(broker.path("bit"), vec![b' '; 900]).unwrap();
    let command = topic("command");
    for arguments in [
        &["-m", "OPEN"][..],
        &["-m", "open "],
        &["-m", "open", "-r"],
        &["-n"],
        &["-f", &broker.path("huge")],
        &["-f", &broker.path("huge"), "-r"],
        &["-f", &broker.path("binary")],
        &["-f", &broker.path("bit")],
        &["-m", "x", "-D", "publish", "user-property", "a", &"b".repeat(300), "-D", "publish", "content-type", "x/y"],
        &["-m", "x", "-D", "publish", "response-topic", "a/b", "-D", "publish", "correlation-data", "c"],
        &["-m", "x", "-D", "publish", "message-expiry-interval", "5", "-D", "publish", "payload-format-indicator", "1"],
    ] {
        broker.publish(&[&["-t", &command], arguments].concat());
    }
    // What is ours, written by somebody else, and what nobody listens to.
    broker.publish(&["-t", &topic("event"), "-m", "{\"event_type\": \"granted\"}"]);
    broker.publish(&["-t", &topic("command/open"), "-m", "open"]);
    broker.publish(&["-t", "homeassistant/status", "-m", "offline"]);
    wait_until("the small ones came", || (house.counted("mqtt_commands_ignored") >= 7).then_some(()));
    assert_eq!((house.counted("opened_by_hand"), house.counted("mqtt_lost")), (0, 0), "{}", house.log());
    broker.publish(&["-t", &command, "-m", "open"]);
    listener.wait_for_event("opened");
    let log = house.log();
    assert_eq!(log.matches("was ignored").count(), 1, "it is said once: {log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_command_that_waited_does_not_open() {
    if no_mosquitto() {
        return;
    }
    let broker = Broker::start();
    let listener = broker.listen();
    let house = House::start(&format!("{}allow_open = true\n", plain(&broker)));
    listener.wait_for_last(&topic("availability"), |payload| payload == "online");
    let warning = house.log();
    assert!(!warning.contains("mqtt.allow_open"), "the broker is on this machine: {warning}");
    let daemon = Pid::from_child(house.daemon.as_ref().unwrap());
    for expiry in [&[][..], &["-D", "publish", "message-expiry-interval", "1"]] {
        kill_process(daemon, Signal::STOP).unwrap();
        broker.publish(&[&["-t", &topic("command"), "-m", "open"], expiry].concat());
        thread::sleep(Duration::from_secs(4));
        kill_process(daemon, Signal::CONT).unwrap();
        thread::sleep(Duration::from_secs(3));
    }
    assert_eq!((house.counted("opened_by_hand"), house.counted("mqtt_commands_ignored")), (0, 2), "{}", house.log());
    broker.publish(&["-t", &topic("command"), "-m", "open"]);
    listener.wait_for_event("opened");
}

/// A broker that sends what a test wants; it takes one connection and answers no ping by itself.
struct Puppet {
    stream: TcpStream,
    pings: Arc<Mutex<u32>>,
}

impl Puppet {
    fn accept(listener: &TcpListener) -> Puppet {
        let stream = listener.accept().unwrap().0;
        let (mut reads, mut answers) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        let (pings, counted) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(false)));
        let (pinged, subscribed) = (Arc::clone(&pings), Arc::clone(&counted));
        thread::spawn(move || {
            while let Some((kind, body)) = packet(&mut reads) {
                match kind >> 4 {
                    1 => answers.write_all(&[0x20, 3, 0, 0, 0]).unwrap(),
                    // A publication: the topic's length and text, then its number.
                    3 => {
                        let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                        answers.write_all(&[0x40, 2, body[at], body[at + 1]]).unwrap();
                    }
                    8 => {
                        answers.write_all(&[0x90, 4, body[0], body[1], 0, 1]).unwrap();
                        *subscribed.lock().unwrap() = true;
                    }
                    12 => *pinged.lock().unwrap() += 1,
                    _ => {}
                }
            }
        });
        wait_until("the subscription", || counted.lock().unwrap().then_some(()));
        Puppet { stream, pings }
    }

    fn command(&mut self, number: u8, again: bool) {
        let topic = topic("command");
        let mut bytes =
            vec![if again { 0x3a } else { 0x32 }, (2 + topic.len() + 2 + 1 + 4) as u8, 0, topic.len() as u8];
        bytes.extend_from_slice(topic.as_bytes());
        bytes.extend_from_slice(&[0, number, 0]);
        bytes.extend_from_slice(b"open");
        self.stream.write_all(&bytes).unwrap();
    }
}

/// The first byte of a packet, and what comes after its length.
fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut byte = || {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok().map(|()| byte[0])
    };
    let kind = byte()?;
    let mut length = 0_usize;
    for shift in [0, 7, 14, 21] {
        let more = byte()?;
        length |= usize::from(more & 0x7f) << shift;
        if more < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((kind, body))
}

#[test]
fn a_message_that_comes_again_opens_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let house = House::start(&format!("broker = \"mqtt://127.0.0.1:{port}\"\nallow_open = true\n"));
    let mut broker = Puppet::accept(&listener);
    let opened = |count: u64| wait_until("the command", || (house.counted("opened_by_hand") == count).then_some(()));
    broker.command(1, false);
    opened(1);
    thread::sleep(Duration::from_millis(2500));
    // The same once more, and one of a connection before.
    broker.command(1, true);
    broker.command(7, true);
    wait_until("both are ignored", || (house.counted("mqtt_commands_ignored") == 2).then_some(()));
    broker.command(8, false);
    opened(2);
    // The connection hangs: a ping is not answered, and what comes then may be old.
    wait_until("a ping", || (*broker.pings.lock().unwrap() > 0).then_some(()));
    thread::sleep(Duration::from_millis(2500));
    broker.command(9, false);
    broker.stream.write_all(&[0xd0, 0]).unwrap();
    wait_until("it is ignored", || (house.counted("mqtt_commands_ignored") == 3).then_some(()));
    broker.command(10, false);
    opened(3);
}

#[test]
fn a_broker_that_forbids_or_is_none_costs_nothing() {
    if no_mosquitto() {
        return;
    }
    let mut broker = Broker::start();
    broker.stop();
    fs::write(broker.path("acl"), "user door\ntopic read nothing\nuser home\ntopic readwrite #\n").unwrap();
    broker.resume();
    let house = House::start(&format!("{}allow_open = true\n", plain(&broker)));
    wait_until("it is said", || house.log().contains("it refuses").then_some(()));
    house.open();
    wait_until("events are refused", || (house.counted("mqtt_refused") > 8).then_some(()));
    assert_eq!(house.log().matches("it refuses").count(), 1, "{}", house.log());
    drop(house);
    // One that takes the connection and says nothing, and one that speaks something else.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let house = House::start(&format!("broker = \"mqtt://127.0.0.1:{port}\"\n"));
    wait_until("it is given up", || house.log().contains("it does not answer").then_some(()));
    let begun = Instant::now();
    house.open();
    assert!(begun.elapsed() < Duration::from_secs(1), "the door does not wait");
    thread::spawn(move || {
        for stream in silent.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    thread::sleep(Duration::from_secs(3));
    house.open();
    assert_eq!(house.log().matches("trying again").count(), 1, "{}", house.log());
    assert!(!house.log().contains("panicked"), "{}", house.log());
}
