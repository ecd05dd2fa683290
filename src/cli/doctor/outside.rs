//! What is around the door: page, broker, hooks, and the pictures of strangers.
//!
//! All of it is tried from where this command runs, which has the machine's network; the service has the one its unit gives it.

use std::{
    env, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::Value;
use ureq::{Agent, http::Uri, tls::TlsConfig};

use super::{Check, Verdict, check, ok};
use crate::{
    api::ask,
    config::{Config, HookConfig, HttpConfig, MqttConfig, secret::secret},
    control::ControlClient,
    hooks, http, mqtt,
    store::Store,
    telemetry::printable,
};

/// Whoever takes longer does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Renewed certificates come this long before the old ones expire, by the usual programs.
const SOON: Duration = Duration::from_secs(14 * 86_400);
/// Where systemd puts what LoadCredential= names.
const CREDENTIALS: &str = "/run/credentials";
const NETWORK: &str = "copy /usr/share/doc/facelatch/examples/network.conf to /etc/systemd/system/facelatch.service.d/, name there \
     whom the service may speak with, then systemctl daemon-reload and systemctl restart facelatch";
const AS_SERVICE: &str = "sudo -u facelatch facelatch doctor sees what the service sees; what only root may read becomes a credential, \
     as /usr/share/doc/facelatch/examples/network.conf shows";

/// `pid` is the running daemon's, None when none runs.
pub(super) fn examine(config: &Config, pid: Option<u32>) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(pid.and_then(|pid| network(config, pid)));
    checks.push(page(&config.http, pid.is_some()));
    checks.extend(certificate(&config.http, pid.is_some()));
    checks.push(broker(&config.mqtt));
    checks.extend(config.hooks.iter().enumerate().map(|(i, hook)| self::hook(i, hook)));
    checks.extend(strangers(config, pid.is_some()));
    checks
}

/// Whether the service has a network, if it needs one and it may be looked at.
fn network(config: &Config, pid: u32) -> Option<Check> {
    let needed = config.http.enabled || config.mqtt.broker.is_some() || config.hooks.iter().any(|h| !h.url.is_empty());
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let (its, ours) = (of(&pid.to_string())?, of("self")?);
    (needed && its != ours)
        .then(|| check("network", Verdict::Fail, "the service has none (PrivateNetwork=yes)", NETWORK))
}

fn page(config: &HttpConfig, running: bool) -> Check {
    if !config.enabled {
        return ok("page", "switched off");
    }
    let scheme = if config.certificate.as_os_str().is_empty() { "http" } else { "https" };
    let address = format!("{scheme}://{}/", within_reach(config.listen));
    let open = if config.password.is_empty() { "; nobody is asked for a password" } else { "" };
    if running {
        return match ask(&address) {
            Ok(()) => ok("page", format!("{address} answers{open}")),
            Err(problem) => check(
                "page",
                Verdict::Fail,
                format!("{address}: {problem}"),
                "journalctl -u facelatch says why; systemctl reload facelatch, if [http] was changed since; the service needs a network, \
                 and IPAddressAllow=localhost for this question: /usr/share/doc/facelatch/examples/network.conf",
            ),
        };
    }
    match TcpListener::bind(config.listen) {
        Ok(_) => ok("page", format!("{} is free{open}", config.listen)),
        Err(error) => check(
            "page",
            Verdict::Fail,
            format!("{} (http.listen): {error}", config.listen),
            match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "another program listens there (ss -tlnp shows which); set http.listen to another port"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "set http.listen to an address of this machine (ip address shows them), or to 0.0.0.0"
                }
                _ => "set http.listen to a port from 1024 on",
            },
        ),
    }
}

/// What listens everywhere is asked here.
fn within_reach(listen: SocketAddr) -> SocketAddr {
    let here = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(here, listen.port())
}

/// Whether it is the page that answers.
fn ask(address: &str) -> Result<(), String> {
    // Who certifies it, and for which name, is the browsers' business.
    let tls = TlsConfig::builder().disable_verification(true).build();
    let settings = Agent::config_builder().timeout_global(Some(PATIENCE)).max_redirects(0).proxy(None).tls_config(tls);
    let agent: Agent = settings.http_status_as_error(false).build().into();
    let mut answer = agent.get(format!("{address}api/session")).call().map_err(|error| error.to_string())?;
    let text = answer.body_mut().read_to_string().unwrap_or_default();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    match (value.get("authenticated"), value.get("error").and_then(Value::as_str)) {
        (Some(_), _) => Ok(()),
        (None, Some(error)) => Err(printable(error).to_string()),
        (None, None) => Err("what answers there is not facelatch".into()),
    }
}

fn certificate(config: &HttpConfig, running: bool) -> Option<Check> {
    let path = &config.certificate;
    if !config.enabled || path.as_os_str().is_empty() {
        return None;
    }
    if !running && [path, &config.key].into_iter().any(|file| file.starts_with(CREDENTIALS) && !file.exists()) {
        return Some(ok(
            "certificate",
            format!("{}: a credential, which only the running service has", path.display()),
        ));
    }
    if let Err(error) = http::tls(config) {
        return Some(check("certificate", Verdict::Fail, error.to_string(), AS_SERVICE));
    }
    let until = fs::read(path).ok().and_then(|pem| http::certificate::expires(&pem));
    let (verdict, says) = match until.map(|until| (until.duration_since(Timestamp::now()), until.strftime("%F"))) {
        None => (Verdict::Ok, "when it expires cannot be read".into()),
        Some((left, day)) if left.is_negative() => (Verdict::Fail, format!("expired on {day}")),
        Some((left, day)) if left.unsigned_abs() < SOON => (Verdict::Warn, format!("expires on {day}")),
        Some((_, day)) => (Verdict::Ok, format!("expires on {day}")),
    };
    let seen = format!("{} belongs to its key, {says}", path.display());
    Some(check(
        "certificate",
        verdict,
        seen,
        "renew it, then systemctl restart facelatch: browsers refuse one that is expired",
    ))
}

fn broker(config: &MqttConfig) -> Check {
    let Some(broker) = &config.broker else { return ok("broker", "switched off") };
    let failed = |seen: String, remedy: &str| check("broker", Verdict::Fail, seen, remedy);
    if broker.tls
        && let Err(problem) = mqtt::tls_of(&config.ca)
    {
        return failed(
            problem,
            "apt install ca-certificates brings the usual file; one of your own has to be a PEM file",
        );
    }
    if let Err(problem) = readable(&config.password, &config.password_file, "mqtt.password") {
        return failed(problem, AS_SERVICE);
    }
    match reach(broker.host.trim_matches(['[', ']']), broker.port) {
        Ok(address) => ok("broker", format!("{broker} listens at {address}")),
        Err(problem) => failed(
            format!("{broker}: {problem}"),
            "is it running and listening there, and mqtt.broker right? Until then events are kept (mqtt.queue)",
        ),
    }
}

fn hook(i: usize, config: &HookConfig) -> Check {
    let seen = |text: String| format!("{} ({}): {text}", i + 1, printable(&hooks::who(config)));
    let failed = |text: String, remedy: &str| check("hook", Verdict::Fail, seen(text), remedy);
    if let Some(program) = config.command.first() {
        return match find(program) {
            None => failed("there is no such program".into(), "install it, or give its whole path in hooks.command"),
            Some(path) if !may_run(&path) => failed(
                format!("{} cannot be run", path.display()),
                "chmod a+rx it; its folders need x for everybody too",
            ),
            // ProtectHome=yes.
            Some(path) if ["/home", "/root"].iter().any(|home| path.starts_with(home)) => check(
                "hook",
                Verdict::Warn,
                seen(format!("{} is hidden from the service", path.display())),
                "copy it to /usr/local/bin",
            ),
            Some(path) => ok("hook", seen(format!("the program {}", path.display()))),
        };
    }
    if config.url.starts_with("https:")
        && let Err(problem) = hooks::trusted(&config.ca)
    {
        return failed(
            problem,
            "apt install ca-certificates brings the usual file; one of your own has to be a PEM file",
        );
    }
    if let Err(problem) = readable(&config.secret, &config.secret_file, "hooks.secret") {
        return failed(problem, AS_SERVICE);
    }
    let address: Option<Uri> = format!("{}/", url_without_path(&config.url)).parse().ok();
    let Some(host) = address.as_ref().and_then(Uri::host) else {
        return failed("no address".into(), "set hooks.url to one that begins with https:// or http://");
    };
    match resolve(host.trim_matches(['[', ']']), 0) {
        Ok(_) => ok("hook", seen(format!("{host} is known"))),
        Err(problem) => failed(
            problem,
            "set hooks.url to a name that is known (getent hosts NAME), and let the service reach the name server (network.conf)",
        ),
    }
}

/// Of a URL, which may hold credentials in its path, scheme and host.
fn url_without_path(url: &str) -> String {
    url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

/// A secret that stands in a file, or in the configuration. A credential is the running service's only.
fn readable(text: &str, file: &Path, key: &str) -> Result<(), String> {
    if file.as_os_str().is_empty() && env::var_os("CREDENTIALS_DIRECTORY").is_none() {
        return Ok(());
    }
    secret(text, file, key).map(drop)
}

/// Where a program is, as it would be looked for to be run.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn may_run(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

fn reach(host: &str, port: u16) -> Result<SocketAddr, String> {
    let until = Instant::now() + PATIENCE;
    let mut problem = "it has no address".to_owned();
    for address in resolve(host, port)? {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(_) => return Ok(address),
            Err(error) => problem = format!("{address}: {error}"),
        }
    }
    Err(problem)
}

/// The name server is asked on a thread of its own, which is left alone when it takes too long.
fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let (sender, answer) = mpsc::channel();
    let name = (host.to_owned(), port);
    thread::spawn(move || {
        let found = (name.0.as_str(), name.1).to_socket_addrs().map(Iterator::collect);
        // Nobody may be waiting any more.
        let _ = sender.send(found);
    });
    match answer.recv_timeout(PATIENCE) {
        Ok(found) => found.map_err(|error| format!("{host}: {error}")),
        Err(_) => Err(format!("{host}: the name server does not answer")),
    }
}

/// That strangers' pictures are kept is said, so that nobody forgets it.
fn strangers(config: &Config, running: bool) -> Option<Check> {
    let most = config.enroll.keep_unknown;
    if most == 0 {
        return None;
    }
    let kept = if running {
        let asked = ControlClient::connect(&config.control.socket).and_then(|mut client| client.ask(ask::Unknown {}));
        asked.ok().map(|faces| faces.len())
    } else if config.store.path.exists() {
        let opened = Store::open(&config.store.path, crate::service::now_ms());
        opened.ok().and_then(|(store, _)| store.strangers().ok()).map(|strangers| strangers.len())
    } else {
        Some(0)
    };
    let now = kept.map_or_else(String::new, |kept| format!(", {kept} now"));
    let hours = config.enroll.unknown_expiry.as_secs() / 3600;
    let how_long = if hours < 48 { format!("{hours} hours") } else { format!("{} days", hours / 24) };
    Some(ok(
        "strangers",
        format!(
            "pictures of up to {most} people who are not enrolled are kept for {how_long}{now} (enroll.keep_unknown); in many countries you have to tell people"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::config::units::parse_broker;

    fn tls(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
    }

    /// Answers one request; its address.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let length = answer.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}");
        });
        address
    }

    /// An address at which nobody listens.
    fn nobody() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn with_page(listen: SocketAddr) -> HttpConfig {
        HttpConfig { enabled: true, listen, ..HttpConfig::default() }
    }

    #[track_caller]
    fn expect(check: &Check, verdict: Verdict, word: &str) {
        assert_eq!(check.verdict, verdict, "{check:?}");
        assert!(check.seen.contains(word), "{check:?}");
        assert_eq!(check.remedy.is_some(), verdict != Verdict::Ok, "{check:?}");
    }

    #[test]
    fn the_running_page_is_asked() {
        expect(&page(&HttpConfig::default(), true), Verdict::Ok, "switched off");
        let answering = with_page(server("{\"authenticated\":false,\"password\":true}"));
        expect(&page(&answering, true), Verdict::Ok, "answers");
        expect(&page(&with_page(server("<html>")), true), Verdict::Fail, "not facelatch");
        expect(&page(&with_page(nobody()), true), Verdict::Fail, "refused");
    }

    #[test]
    fn the_port_of_the_page_is_tried() {
        expect(&page(&with_page(nobody()), false), Verdict::Ok, "free");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        expect(&page(&with_page(taken.local_addr().unwrap()), false), Verdict::Fail, "in use");
        // Set aside for documentation (RFC 5737).
        expect(&page(&with_page("192.0.2.1:8420".parse().unwrap()), false), Verdict::Fail, "192.0.2.1:8420");
    }

    #[test]
    fn certificate_and_key_have_to_belong_together() {
        let with = |certificate: &str, key: &str| {
            let config = HttpConfig {
                certificate: tls(certificate),
                key: tls(key),
                ..with_page("127.0.0.1:8420".parse().unwrap())
            };
            certificate_of(&config)
        };
        fn certificate_of(config: &HttpConfig) -> Check {
            super::certificate(config, false).unwrap()
        }
        expect(&with("certificate.pem", "key.pem"), Verdict::Ok, "expires on 2126-11-01");
        expect(&with("certificate.pem", "other-key.pem"), Verdict::Fail, "must belong together");
        expect(&with("certificate.pem", "missing.pem"), Verdict::Fail, "http.key");
        expect(&with("key.pem", "key.pem"), Verdict::Fail, "http.certificate");
        let credential = HttpConfig {
            certificate: "/run/credentials/nothing.service/certificate".into(),
            key: tls("key.pem"),
            ..with_page("127.0.0.1:8420".parse().unwrap())
        };
        expect(&certificate_of(&credential), Verdict::Ok, "a credential");
        assert!(super::certificate(&with_page("127.0.0.1:8420".parse().unwrap()), false).is_none(), "plain http");
    }

    #[test]
    fn the_broker_is_spoken_to() {
        let at = |url: String| MqttConfig { broker: parse_broker(&url).unwrap(), ..MqttConfig::default() };
        expect(&broker(&MqttConfig::default()), Verdict::Ok, "switched off");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = at(format!("mqtt://{}", listener.local_addr().unwrap()));
        expect(&broker(&there), Verdict::Ok, "listens");
        let no_file = MqttConfig { user: "door".into(), password_file: "/nowhere/password".into(), ..there.clone() };
        expect(&broker(&no_file), Verdict::Fail, "mqtt.password_file");
        let no_ca = MqttConfig { ca: "/nowhere/ca.pem".into(), ..at("mqtts://127.0.0.1:8883".into()) };
        expect(&broker(&no_ca), Verdict::Fail, "mqtt.ca");
        expect(&broker(&at(format!("mqtt://{}", nobody()))), Verdict::Fail, "refused");
        expect(&broker(&at("mqtt://nowhere.invalid".into())), Verdict::Fail, "nowhere.invalid");
    }

    #[test]
    fn a_hook_needs_its_program_or_its_host() {
        let command = |program: &str| hook(0, &HookConfig { command: vec![program.into()], ..HookConfig::default() });
        let url = |url: &str| hook(1, &HookConfig { url: url.into(), ..HookConfig::default() });
        expect(&command("sh"), Verdict::Ok, "/sh");
        expect(&command("no-such-program"), Verdict::Fail, "no such program");
        expect(&command("./no-such-program"), Verdict::Fail, "no such program");
        expect(&command(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")), Verdict::Fail, "cannot be run");
        expect(&url("http://localhost:1/${credential:path}"), Verdict::Ok, "2 (localhost:1): localhost is known");
        expect(&url("http://me:secret@[::1]/"), Verdict::Ok, "::1");
        expect(&url("http://nowhere.invalid/"), Verdict::Fail, "nowhere.invalid");
        let untrusted =
            HookConfig { url: "https://localhost/".into(), ca: "/nowhere/ca.pem".into(), ..HookConfig::default() };
        expect(&hook(0, &untrusted), Verdict::Fail, "hooks.ca");
    }

    #[test]
    fn what_is_kept_of_strangers_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.path = dir.path().join("store");
        assert!(strangers(&config, false).is_none());
        config.enroll.keep_unknown = 50;
        expect(
            &strangers(&config, false).unwrap(),
            Verdict::Ok,
            "up to 50 people who are not enrolled are kept for 14 days, 0 now",
        );
        drop(Store::open(&config.store.path, 0).unwrap());
        expect(&strangers(&config, false).unwrap(), Verdict::Ok, "0 now");
    }
}
