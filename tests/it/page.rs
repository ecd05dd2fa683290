//! The live page's API before a running daemon: who may ask, what is shown, what hostile clients get.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use facelatch::{
    api::ask,
    config::{
        Config,
        token::{Scope, Token},
    },
    http::auth::{hash_of_password, hash_of_token},
    store::{EventKind, Store},
};
use serde_json::{Value, json};
use ureq::{Agent, http::Response};

use crate::{
    door::{Running, config, enroll, play},
    support::{root, skipped},
};

const KNOWN: &str = "barack_obama_2.png";
const UNKNOWN: &str = "eileen_collins_1.png";
const PASSWORD: &str = "correct horse battery";
const TOKEN: &str = "a token of the tests";

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn with_page(dir: &Path) -> Config {
    let mut config = config(dir);
    config.http.enabled = true;
    config.http.listen = free_port();
    config.http.metrics = true;
    config
}

fn with_password(dir: &Path) -> Config {
    let mut config = with_page(dir);
    config.http.password = hash_of_password(PASSWORD).unwrap();
    config.http.tokens = vec![Token::everything(hash_of_token(TOKEN))];
    config
}

/// A client that keeps what it is told to.
struct Client {
    agent: Agent,
    base: String,
    headers: Vec<(String, String)>,
}

struct Answer {
    status: u16,
    body: Vec<u8>,
    headers: ureq::http::HeaderMap,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }
}

impl Client {
    fn of(config: &Config) -> Client {
        let agent = Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(30)));
        let client =
            Client { agent: agent.build().into(), base: format!("http://{}", config.http.listen), headers: Vec::new() };
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(config.http.listen).is_err() {
            assert!(Instant::now() < until, "the page does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        client
    }

    fn with(mut self, name: &str, value: &str) -> Client {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn open(config: &Config) -> Client {
        let client = Client::of(config);
        let csrf = client.get("/api/session").json()["csrf"].as_str().unwrap().to_owned();
        client.with("X-CSRF-Token", &csrf)
    }

    fn send(&self, method: &str, path: &str, body: &[u8], kind: &str) -> Answer {
        self.try_send(method, path, body, kind).unwrap()
    }

    fn try_send(&self, method: &str, path: &str, body: &[u8], kind: &str) -> Result<Answer, ureq::Error> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if !kind.is_empty() {
            request = request.header("Content-Type", kind);
        }
        let response: Response<ureq::Body> = self.agent.run(request.body(body.to_vec()).unwrap())?;
        let (parts, mut body) = response.into_parts();
        let body = body.read_to_vec().unwrap_or_default();
        Ok(Answer { status: parts.status.as_u16(), body, headers: parts.headers })
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body.to_string().as_bytes(), "application/json")
    }

    fn log_in(config: &Config) -> Client {
        let client = Client::of(config);
        let answer = client.post("/api/login", &json!({ "password": PASSWORD }));
        assert_eq!(answer.status, 200, "{:?}", String::from_utf8_lossy(&answer.body));
        let cookie = answer.headers["set-cookie"].to_str().unwrap().to_owned();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        let client = client.with("Cookie", cookie.split(';').next().unwrap());
        let csrf = client.get("/api/session").json()["csrf"].as_str().unwrap().to_owned();
        client.with("X-CSRF-Token", &csrf)
    }

    /// Reads server-sent events until one of this name satisfies.
    fn news(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let address = self.base.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        write!(stream, "GET /api/live HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let mut event = String::new();
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap();
            if let Some(kind) = line.strip_prefix("event: ") {
                event = kind.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ").filter(|_| event == name) {
                let data = serde_json::from_str(data).unwrap();
                if wanted(&data) {
                    return data;
                }
            }
            assert!(Instant::now() < until, "no {name} as wanted");
        }
        panic!("the news ended");
    }
}

/// Methods and paths as the description lists them.
fn described() -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(root().join("src/http/page/openapi.json")).unwrap();
    let description: Value = serde_json::from_str(&text).unwrap();
    let paths = description["paths"].as_object().unwrap();
    let operations = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone()));
        methods.collect::<Vec<_>>()
    };
    paths.iter().flat_map(operations).collect()
}

#[test]
fn the_description_lists_the_routes_there_are() {
    let source = fs::read_to_string(root().join("src/http/api.rs")).unwrap();
    let routes: BTreeSet<_> = source
        .split(".route(\"")
        .skip(1)
        .map(|route| {
            let (path, rest) = route.split_once('"').unwrap();
            let method =
                rest.trim_start_matches([',', ' ']).trim_start_matches("of_pictures(").split('(').next().unwrap();
            (method.to_owned(), path.to_owned())
        })
        .filter(|(_, path)| path.starts_with("/api/") || path == "/metrics")
        .collect();
    assert!(routes.len() > 15);
    assert_eq!(routes, described());
    let text = fs::read_to_string(root().join("src/http/page/openapi.json")).unwrap();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(text.contains(&format!("   \"{name}\": {{")), "{name} is described nowhere");
    }
}

#[test]
fn nothing_is_told_or_done_without_the_password() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[(KNOWN, 5)]);
    let config = with_password(dir.path());
    let running = Running::start(&config);
    let nobody = Client::of(&config);
    let (cookie, bearer) = (
        Client::of(&config).with("Cookie", &format!("facelatch={}", "0".repeat(64))),
        Client::of(&config).with("Authorization", "Bearer guessed"),
    );
    let public = ["/api/session", "/api/login", "/api/openapi.json"];
    for (method, path) in described().into_iter().filter(|(_, path)| !public.contains(&path.as_str())) {
        let path = path.replace("{name}", "Eve").replace("{id}", "1").replace("{look}", "0").replace("{track}", "1");
        for client in [&nobody, &cookie, &bearer] {
            let answer = client.send(&method.to_uppercase(), &path, b"{\"name\":\"Eve\"}", "application/json");
            assert_eq!(answer.status, 401, "{method} {path}");
            assert!(answer.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
        }
    }
    for trick in [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/api//status",
        "/page.js/../api/status",
        "//",
        "/api/unknown/..%2f..%2f/pictures/0",
    ] {
        let answer = nobody.get(trick);
        assert!([400, 401, 404].contains(&answer.status), "{trick}: {}", answer.status);
        assert!(!String::from_utf8_lossy(&answer.body).contains("root:"));
    }
    // The page itself tells nothing.
    assert_eq!(nobody.get("/").status, 200);
    drop(running);
    let events = Store::open(&config.store.path, 0).unwrap().0.events(None, None).unwrap();
    assert!(!events.iter().any(|event| matches!(event.kind, EventKind::Opened { .. })));
}

#[test]
fn who_knows_the_password_opens_with_the_session_s_token_only_and_a_program_with_its_own() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = with_password(dir.path());
    let running = Running::start(&config);
    let client = Client::log_in(&config);
    let without_csrf = Client { headers: client.headers[..1].to_vec(), ..Client::of(&config) };
    assert_eq!(without_csrf.get("/api/status").status, 200);
    assert_eq!(without_csrf.post("/api/open", &json!({})).status, 403);
    assert_eq!(client.post("/api/open", &json!({})).status, 200);
    let program = Client::of(&config).with("Authorization", &format!("Bearer {TOKEN}"));
    assert_eq!(program.post("/api/open", &json!({})).status, 200);
    let metrics = String::from_utf8(program.get("/metrics").body).unwrap();
    assert!(metrics.contains("facelatch_opened_by_hand_total 2"), "{metrics}");
    assert_eq!(client.post("/api/logout", &json!({})).status, 200);
    assert_eq!(client.get("/api/status").status, 401);
    drop(running);
    let events = Store::open(&config.store.path, 0).unwrap().0.events(None, None).unwrap();
    let opened =
        events.iter().filter(|event| matches!(&event.kind, EventKind::Opened { by } if by == "page (127.0.0.1)"));
    assert_eq!(opened.count(), 2);
}

#[test]
fn wrong_passwords_have_to_wait() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = with_password(dir.path());
    let _running = Running::start(&config);
    let client = Client::of(&config);
    let until = Instant::now() + Duration::from_secs(40);
    let mut wrong = 0;
    loop {
        let answer = client.post("/api/login", &json!({ "password": "guess" }));
        match answer.status {
            401 => wrong += 1,
            429 if answer.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 5 => break,
            429 => thread::sleep(Duration::from_millis(300)),
            other => panic!("{other}"),
        }
        assert!(Instant::now() < until, "guessing goes on");
    }
    assert!((4..=8).contains(&wrong), "{wrong} guesses were looked at");
    let right = client.post("/api/login", &json!({ "password": PASSWORD }));
    assert_eq!(right.status, 429, "the right one waits too, or guessing would go on");
    assert!(right.headers.contains_key("retry-after"));
    for nonsense in [&b"{}"[..], b"", b"\xff\xfe", b"{\"password\":7}", b"[[[[[[[["] {
        let answer = client.send("POST", "/api/login", nonsense, "application/json");
        assert!([400, 422].contains(&answer.status), "{}", answer.status);
    }
}

/// A connection from another of this machine's addresses.
fn connect_from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((address, 0))).unwrap();
    connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// The status of a log-in from another of this machine's addresses.
fn log_in_from(address: [u8; 4], config: &Config, password: &str) -> u16 {
    let mut stream = connect_from(address, config.http.listen);
    let body = json!({ "password": password }).to_string();
    write!(
        stream,
        "POST /api/login HTTP/1.1\r\nHost: door\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_network_full_of_addresses_guesses_no_more_than_one() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = with_password(dir.path());
    let _running = Running::start(&config);
    let _client = Client::of(&config);
    let statuses: Vec<u16> = (1..=60).map(|i| log_in_from([127, 0, 5, i], &config, "guess")).collect();
    let looked_at = statuses.iter().filter(|status| **status == 401).count();
    assert!((12..=16).contains(&looked_at), "{statuses:?}");
    assert_eq!(statuses.last(), Some(&429));
    assert_eq!(log_in_from([127, 0, 5, 200], &config, PASSWORD), 429, "a new address of that network");
    assert_eq!(log_in_from([127, 0, 6, 1], &config, PASSWORD), 200, "another network is not shut out");
}

#[test]
fn without_a_password_nothing_comes_through_a_proxy() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = with_page(dir.path());
    let _running = Running::start(&config);
    for (header, value) in [
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=203.0.113.7"),
        ("Via", "1.1 door"),
        ("X-Real-IP", "203.0.113.7"),
        ("CF-Connecting-IP", "203.0.113.7"),
        ("True-Client-IP", "203.0.113.7"),
    ] {
        let client = Client::open(&config).with("Host", "127.0.0.1").with(header, value);
        for path in ["/api/session", "/api/status", "/api/stream"] {
            let answer = client.get(path);
            assert_eq!(answer.status, 403, "{header} {path}");
            let problem = answer.json()["error"].as_str().unwrap().to_owned();
            assert!(problem.contains("proxy") && problem.contains("http.password"), "{problem}");
        }
        assert_eq!(client.post("/api/open", &json!({})).status, 403, "{header}");
    }
    // As nginx asks unless it is configured otherwise.
    let mut stream = TcpStream::connect(config.http.listen).unwrap();
    write!(stream, "GET /api/session HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n", config.http.listen).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 403") && !answer.contains("csrf"), "{answer}");
    assert_eq!(Client::open(&config).post("/api/open", &json!({})).status, 200);
}

/// A request whose answer has no end by itself.
fn look_on(config: &Config, path: &str, headers: &[(String, String)]) -> TcpStream {
    let mut stream = TcpStream::connect(config.http.listen).unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200", "{path}");
    stream
}

/// How long more of the answer comes: until its last, empty chunk, or the connection's end.
fn lasts(mut stream: TcpStream) -> Duration {
    let begun = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut last = Vec::new();
    while begun.elapsed() < Duration::from_secs(5) {
        let mut more = [0; 65536];
        match stream.read(&mut more) {
            Ok(0) => break,
            Ok(count) => last = more[count.saturating_sub(5)..count].to_vec(),
            Err(_) if last == b"0\r\n\r\n" => break,
            Err(_) => {}
        }
    }
    begun.elapsed()
}

#[test]
fn who_logs_out_sees_no_more() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[(KNOWN, 5), ("", 5)]);
    let config = with_password(dir.path());
    let _running = Running::start(&config);
    let (leaving, staying) = (Client::log_in(&config), Client::log_in(&config));
    let of = |client: &Client| ["/api/stream", "/api/live"].map(|path| look_on(&config, path, &client.headers));
    let (left, stayed) = (of(&leaving), of(&staying));
    assert_eq!(leaving.post("/api/logout", &json!({})).status, 200);
    for stream in left {
        let more = lasts(stream);
        assert!(more < Duration::from_secs(2), "seen for {more:?} after log-out");
    }
    for stream in stayed {
        assert!(lasts(stream) >= Duration::from_secs(5), "others see on");
    }
}

#[test]
fn a_new_password_ends_what_the_old_one_sees() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = with_password(dir.path());
    let file = dir.path().join("facelatch.toml");
    let running = Running::start_with(&config, Some(file.clone()));
    let client = Client::log_in(&config);
    let stream = look_on(&config, "/api/stream", &client.headers);
    let text = format!(
        "mode = \"attendance\"\n[camera]\nsource = \"files\"\nfolder = \"frames\"\nrepeat = true\n[models]\ndir = \"{}\"\n\
         precision = \"w8\"\n[enroll]\nfolder = \"enroll\"\n[store]\npath = \"store\"\n[control]\nsocket = \"control.sock\"\n\
         [http]\nenabled = true\nlisten = \"{}\"\npassword = \"{}\"\n",
        root().join("models").display(),
        config.http.listen,
        hash_of_password("another horse").unwrap()
    );
    fs::write(&file, text).unwrap();
    running.reload_until(&config.control.socket, |status| status.mode == "attendance");
    assert!(lasts(stream) < Duration::from_secs(2));
    assert_eq!(Client::of(&config).post("/api/login", &json!({ "password": PASSWORD })).status, 401);
}

#[test]
fn a_token_does_what_its_scopes_say_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let mut config = with_password(dir.path());
    let scopes = [Scope::Metrics, Scope::Look, Scope::Enrol, Scope::Open];
    config.http.tokens =
        scopes.iter().map(|scope| Token { hash: hash_of_token(&scope.to_string()), may: Some(vec![*scope]) }).collect();
    let running = Running::start(&config);
    let public = ["/api/session", "/api/login", "/api/openapi.json", "/api/logout", "/api/live", "/api/stream"];
    for (method, path) in described().into_iter().filter(|(_, path)| !public.contains(&path.as_str())) {
        let path = path.replace("{name}", "Eve").replace("{id}", "1").replace("{look}", "0").replace("{track}", "1");
        let may = scopes.map(|scope| {
            let client = Client::of(&config).with("Authorization", &format!("Bearer {scope}"));
            let answer = client.send(&method.to_uppercase(), &path, b"{\"name\":\"Eve\"}", "application/json");
            assert!(answer.status != 403 || answer.json()["error"].as_str().unwrap().contains("http.tokens"));
            answer.status != 403
        });
        let own = match (method.as_str(), path.as_str()) {
            (_, "/metrics") => 0,
            ("get", _) | (_, "/api/identify") => 1,
            (_, "/api/open") => 3,
            _ => 2,
        };
        assert_eq!(may.map(usize::from), std::array::from_fn(|i| usize::from(i == own)), "{method} {path}");
    }
    drop(running);
    let events = Store::open(&config.store.path, 0).unwrap().0.events(None, None).unwrap();
    assert_eq!(events.iter().filter(|event| matches!(event.kind, EventKind::Opened { .. })).count(), 1);
}

#[test]
fn connections_without_a_password_shut_out_nobody() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = with_password(dir.path());
    let _running = Running::start(&config);
    let client = Client::log_in(&config);
    let crowd = |last: u8| -> Vec<TcpStream> {
        (0..150).map(|_| connect_from([127, 0, 7, last], config.http.listen)).collect()
    };
    let mut strangers = [crowd(1), crowd(2), crowd(3)];
    for stream in &mut strangers[1] {
        let _ = write!(stream, "GET /api/session HTTP/1.1\r\nHost: door\r\n\r\n");
    }
    for stream in &mut strangers[2] {
        let _ = write!(stream, "POST /api/login HTTP/1.1\r\nHost: door\r\nContent-Length: 9000\r\n\r\n");
    }
    let begun = Instant::now();
    assert_eq!(client.get("/api/status").status, 200, "who is logged in");
    let visitor = Client { headers: client.headers.clone(), ..Client::of(&config) };
    assert_eq!(visitor.get("/api/status").status, 200, "on a new connection");
    assert_eq!(log_in_from([127, 0, 8, 1], &config, PASSWORD), 200, "who logs in now");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // Who says nothing is left soon.
    let mut silent = connect_from([127, 0, 9, 1], config.http.listen);
    let begun = Instant::now();
    assert_eq!(silent.read(&mut [0; 1]).unwrap_or(0), 0);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn without_a_password_another_site_s_name_reaches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = with_page(dir.path());
    let _running = Running::start(&config);
    let rebound = Client::of(&config).with("Host", "evil.example");
    assert_eq!(rebound.get("/api/status").status, 403);
    assert_eq!(rebound.get("/api/session").status, 403);
    assert_eq!(Client::of(&config).post("/api/open", &json!({})).status, 403, "no CSRF token");
    assert_eq!(Client::open(&config).post("/api/open", &json!({})).status, 200);
}

#[test]
fn the_live_view_shows_changing_pictures_and_who_is_on_them() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[(KNOWN, 30), ("", 10)]);
    let config = with_page(dir.path());
    let _running = Running::start(&config);
    let client = Client::open(&config);
    let faces = client.news("faces", |news| news["faces"][0]["state"] == "known");
    assert_eq!((faces["width"].as_u64(), faces["faces"][0]["name"].as_str()), (Some(640), Some("Barack Obama")));
    assert!(faces["faces"][0]["distance"].as_f64().unwrap() <= faces["faces"][0]["limit"].as_f64().unwrap());
    let event = client.news("event", |event| event["kind"].get("granted").is_some());
    assert_eq!(event["kind"]["granted"]["name"], "Barack Obama");

    let mut stream = TcpStream::connect(config.http.listen).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    let mut pictures = BTreeSet::new();
    while pictures.len() < 2 {
        let mut more = [0; 65536];
        let count = stream.read(&mut more).unwrap();
        bytes.extend_from_slice(&more[..count]);
        let find =
            |from: usize, what: &[u8]| bytes[from..].windows(what.len()).position(|w| w == what).map(|at| at + from);
        if let Some((start, end)) =
            find(0, &[0xff, 0xd8, 0xff]).and_then(|start| Some((start, find(start, &[0xff, 0xd9])?)))
        {
            pictures.insert(bytes[start..end + 2].to_vec());
            bytes.drain(..end + 2);
        }
    }
    let snapshot = client.get("/api/snapshot");
    assert_eq!(snapshot.headers["content-type"], "image/jpeg");
    assert_eq!(image::load_from_memory(&snapshot.body).unwrap().width(), 640);
    drop(stream);
    let until = Instant::now() + Duration::from_secs(10);
    while client.get("/api/status").json()["viewers"] != 0 {
        assert!(Instant::now() < until, "somebody who left is still counted");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_face_in_view_is_enrolled_from_the_camera_and_then_known() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[(UNKNOWN, 10)]);
    let config = with_page(dir.path());
    let _running = Running::start(&config);
    let client = Client::open(&config);
    let faces = client.news("faces", |news| news["faces"][0]["state"] == "unknown");
    let track = faces["faces"][0]["track"].as_u64().unwrap();
    let name = |track: u64, name: &str| client.post(&format!("/api/faces/{track}/name"), &json!({ "name": name }));
    assert_eq!(name(track, "../Eve").status, 422);
    assert_eq!(name(track + 1000, "Nobody").status, 422, "that face is not in view");
    let answer = name(track, "Eileen Collins");
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert!(answer.json()["verdicts"][0]["enrolled"].as_str().unwrap().starts_with("Eileen Collins/camera-"));
    // Of what was recorded: the news may have told it before they were listened to, and who stays is let in once.
    let until = Instant::now() + Duration::from_secs(20);
    let is_let_in = |event: &Value| event["kind"]["granted"]["name"] == "Eileen Collins";
    while !client.get("/api/events").json()["events"].as_array().unwrap().iter().any(is_let_in) {
        assert!(Instant::now() < until, "not let in");
        thread::sleep(Duration::from_millis(50));
    }
    assert!((1..=3).contains(&fs::read_dir(dir.path().join("enroll/Eileen Collins")).unwrap().count()));
    assert_eq!(client.get("/api/people").json()["people"].as_array().unwrap().len(), 2);
}

#[test]
fn unknown_faces_are_kept_only_if_asked_for_and_can_be_named_or_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[(UNKNOWN, 10), ("", 16)]);
    let mut config = with_page(dir.path());
    config.enroll.keep_unknown = 5;
    let mut running = Running::start(&config);
    let client = Client::open(&config);
    let until = Instant::now() + Duration::from_secs(20);
    let kept = || client.get("/api/unknown").json()["faces"].as_array().unwrap().clone();
    while kept().first().is_none_or(|face| face["visits"].as_u64() < Some(2)) {
        assert!(Instant::now() < until, "nobody was kept who came twice");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(kept().len(), 1, "one person, however often");
    let id = kept()[0]["id"].as_u64().unwrap();
    let picture = client.get(&format!("/api/unknown/{id}/pictures/0"));
    assert!(image::load_from_memory(&picture.body).is_ok());
    assert_eq!(client.get(&format!("/api/unknown/{id}/pictures/9")).status, 404);
    let named = client.post(&format!("/api/unknown/{id}/name"), &json!({ "name": "Eileen Collins" }));
    assert!(named.json()["verdicts"][0]["enrolled"].is_string(), "{}", String::from_utf8_lossy(&named.body));
    running.client.ask(ask::Events { follow: true, ..ask::Events::default() }).unwrap();
    running.next_event(|kind| matches!(kind, EventKind::Granted { name, .. } if name == "Eileen Collins"));
    assert_eq!(client.send("DELETE", &format!("/api/unknown/{id}"), &[], "").status, 404, "it has a name now");
    drop(running);
    // Not asked for any more: what there was is gone, and nobody comes to it.
    fs::remove_dir_all(dir.path().join("enroll/Eileen Collins")).unwrap();
    config.enroll.keep_unknown = 0;
    let mut running = Running::start(&config);
    running.client.ask(ask::Events { follow: true, ..ask::Events::default() }).unwrap();
    running.next_event(|kind| matches!(kind, EventKind::Denied { .. }));
    drop(running);
    assert!(Store::open(&config.store.path, 0).unwrap().0.strangers().unwrap().is_empty());
}

#[test]
fn pictures_are_taken_in_judged_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = with_page(dir.path());
    let _running = Running::start(&config);
    let client = Client::open(&config);
    let portrait = |name: &str| fs::read(root().join("tests/data").join(name)).unwrap();
    let send = |name: &str, picture: &[u8]| {
        client.send("POST", &format!("/api/people/{name}/pictures?file=a.png"), picture, "image/png")
    };
    let taken = send("Grace%20Hopper", &portrait("grace_hopper_1.png"));
    assert_eq!((taken.status, taken.json()["picture"].as_str()), (200, Some("Grace Hopper/a.png")));
    for (name, picture) in [
        ("Eve", &b"no picture"[..]),
        ("Eve", b""),
        ("..%2fEve", &portrait(UNKNOWN)),
        ("Eve", &portrait("grace_hopper_1.png")),
    ] {
        let answer = send(name, picture);
        assert_eq!(answer.status, 422, "{}", String::from_utf8_lossy(&answer.body));
        assert!(answer.json()["error"].as_str().unwrap().len() > 10);
    }
    let mut stream = TcpStream::connect(config.http.listen).unwrap();
    let length = 33 << 20;
    let (name, csrf) = &client.headers[0];
    write!(stream, "POST /api/people/Eve/pictures HTTP/1.1\r\nHost: localhost\r\n{name}: {csrf}\r\nContent-Length: {length}\r\n\r\n")
        .unwrap();
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status).unwrap();
    assert_eq!(status, "HTTP/1.1 413 Payload Too Large\r\n", "said before it is sent");
    let known = client.send("POST", "/api/identify", &portrait(KNOWN), "image/png");
    assert_eq!(known.json()["faces"][0]["person"], "Barack Obama");
    assert_eq!(fs::read_dir(dir.path().join("enroll")).unwrap().count(), 2);
}

#[test]
fn with_a_certificate_it_speaks_https_only_and_the_cookie_is_secure() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let mut config = with_password(dir.path());
    (config.http.certificate, config.http.key) = (dir.path().join("door.crt"), dir.path().join("door.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-out")
        .arg(&config.http.certificate)
        .arg("-keyout")
        .arg(&config.http.key)
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return skipped("https: openssl is not installed");
    }
    let running = Running::start(&config);
    let plain = Client::of(&config);
    assert!(plain.agent.get(format!("{}/", plain.base)).call().is_err(), "plain http is no answer");
    let pem = fs::read(&config.http.certificate).unwrap();
    let root = ureq::tls::Certificate::from_pem(&pem).unwrap();
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::new_with_certs(&[root])).build();
    let agent: Agent = Agent::config_builder().http_status_as_error(false).tls_config(tls).build().into();
    let base = format!("https://localhost:{}", config.http.listen.port());
    let client = Client { agent, base, headers: Vec::new() };
    let answer = client.post("/api/login", &json!({ "password": PASSWORD }));
    assert!(answer.headers["set-cookie"].to_str().unwrap().ends_with("; Secure"));
    assert!(answer.headers.contains_key("strict-transport-security"));
    drop(running);
    // A certificate that cannot be read takes the page away, not the door.
    fs::write(&config.http.certificate, "no certificate").unwrap();
    let mut running = Running::start(&config);
    running.client.ask(ask::Status {}).unwrap();
    assert!(TcpStream::connect(config.http.listen).is_err());
}

/// Whatever a client does, the door goes on deciding and the page goes on answering others.
#[test]
fn what_is_no_picture_is_answered_with_422_and_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 40)]);
    let config = with_page(dir.path());
    let _running = Running::start(&config);
    let client = Client::open(&config);
    let whole = fs::read(root().join("tests/data").join(KNOWN)).unwrap();
    for (picture, word) in [
        (&b"no picture"[..], "not a picture"),
        (b"", "not complete"),
        (&whole[..whole.len() / 2], "not complete"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    ] {
        let answer = client.send("POST", "/api/identify", picture, "image/jpeg");
        assert_eq!(answer.status, 422);
        assert!(answer.json()["error"].as_str().unwrap().contains(word), "{}", answer.json());
    }
}

#[test]
fn pictures_wait_for_their_turn_and_too_many_are_sent_away() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 200)]);
    let config = with_page(dir.path());
    let _running = Running::start(&config);
    let client = Client::open(&config);
    let whole = fs::read(root().join("tests/data").join(KNOWN)).unwrap();
    // Who is turned away may find the line closed while the picture is on its way.
    let identify = || loop {
        match client.try_send("POST", "/api/identify", &whole, "image/png") {
            Err(ureq::Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            answer => return answer.unwrap(),
        }
    };
    let answered: Vec<u16> = thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| identify().status)).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(answered, [200; 8], "each waits for its turn");
    // As many that never end what they say: they take all places.
    let (name, csrf) = &client.headers[0];
    let endless = |_| {
        let mut stream = TcpStream::connect(config.http.listen).unwrap();
        let head = "POST /api/identify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000000";
        write!(stream, "{head}\r\n{name}: {csrf}\r\n\r\nxx").unwrap();
        stream
    };
    let mut idle: Vec<TcpStream> = (0..16).map(endless).collect();
    let (mut renewed, until) = (Instant::now(), Instant::now() + Duration::from_secs(30));
    let refused = loop {
        let answer = identify();
        if answer.status == 503 || Instant::now() > until {
            break answer;
        }
        // On a busy machine the first may be given up before the last takes its place.
        if renewed.elapsed() > Duration::from_secs(5) {
            idle = (0..16).map(endless).collect();
            renewed = Instant::now();
        }
    };
    assert_eq!(refused.status, 503);
    assert!(refused.json()["error"].as_str().unwrap().contains("other pictures are being read"));
    drop(idle);
    let until = Instant::now() + Duration::from_secs(5);
    while identify().status != 200 {
        assert!(Instant::now() < until, "there is room again when they have gone");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn hostile_clients_stall_nothing() {
    let dir = tempfile::tempdir().unwrap();
    enroll(dir_of(&dir), KNOWN, "Second Picture");
    play(dir.path(), &[(KNOWN, 10), ("", 16)]);
    let config = with_page(dir.path());
    let mut running = Running::start(&config);
    let address = config.http.listen;
    let client = Client::open(&config);
    // Those that say nothing, those that never end what they say, and those that do not read.
    let mut idle: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stream in &mut idle[20..] {
        write!(stream, "POST /api/identify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000000\r\n\r\nxx").unwrap();
    }
    let blind: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    for broken in [
        &b"\x00\x01\x02\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: \r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(broken).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains(" 4") || answer.contains(" 505"), "{answer}");
    }
    let long = "x".repeat(200_000);
    let mut stream = TcpStream::connect(address).unwrap();
    // It may be cut off before all of it is said.
    let _ = write!(stream, "GET /api/events?since_ms={long} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let storm: Vec<u16> = (0..400).map(|_| client.get("/api/session").status).collect();
    assert!(storm.contains(&429) && storm[0] == 200, "so many requests are too many");
    running.client.ask(ask::Events { follow: true, ..ask::Events::default() }).unwrap();
    for _ in 0..2 {
        running.next_event(|kind| matches!(kind, EventKind::Granted { .. }));
    }
    thread::sleep(Duration::from_secs(2));
    assert_eq!(client.get("/api/status").status, 200);
    drop((idle, blind));
}

fn dir_of(dir: &tempfile::TempDir) -> &Path {
    fs::create_dir_all(dir.path().join("enroll")).unwrap();
    dir.path()
}
