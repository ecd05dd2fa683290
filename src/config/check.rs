//! What cannot be right: ranges of single keys and contradictions between them.

use std::{borrow::Cow, fs, path::Path, time::Duration};

use super::{
    CameraSource, Config, GpioBackend, HookConfig, LineChoice, Mode, MqttConfig, access::Owner, place,
    secret::holds_secret,
};

/// A key and what is wrong with it, with the remedy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Problem {
    /// As in `latch.hold`, or `hooks.0.url`.
    pub key: Cow<'static, str>,
    pub text: String,
}

/// Everything wrong with a configuration; empty when it can be right.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut found = Findings(Vec::new());
    found.camera(config);
    found.detection(config);
    found.recognition(config);
    found.enroll_and_store(config);
    found.latch(config);
    found.http(config);
    found.attendance(config);
    found.mqtt(&config.mqtt);
    found.hooks(&config.hooks);
    found.0
}

/// What is wrong with where the store lies, on this machine and now; in words with the
/// remedy.
pub(super) fn store_place(config: &Config, owner: Owner) -> Option<String> {
    // By what links lead to: as they are written they were compared before.
    let real = |path: &Path| fs::canonicalize(path).ok();
    let inside = real(&config.store.path).zip(real(&config.enroll.folder)).is_some_and(|(a, b)| within(&a, &b));
    if inside {
        return Some("it leads into the enroll folder; give a folder apart from it".into());
    }
    place::exposed(&config.store.path, owner)
}

fn within(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// What can be right and is seldom meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let (http, mqtt) = (&config.http, &config.mqtt);
    let mut found = Vec::new();
    if http.enabled && http.certificate.as_os_str().is_empty() && !http.proxied && !http.listen.ip().is_loopback() {
        found.push(
            "http.certificate: none, so others in the network can read the password; give certificate and key".into(),
        );
    }
    for (i, _) in http.tokens.iter().enumerate().filter(|(_, token)| token.may.is_none()) {
        found.push(format!(
            "http.tokens.{i}: a hash alone allows everything, opening too; write {{ token = \"...\", may = [\"metrics\"] }}"
        ));
    }
    let plain = mqtt.broker.as_ref().filter(|broker| !broker.tls && !broker.is_this_machine());
    if let Some(broker) = plain.filter(|_| mqtt.allow_open && config.mode == Mode::Unlock) {
        found.push(format!(
            "mqtt.allow_open: {broker} is not encrypted, so others in the network can open the door; use mqtts://"
        ));
    }
    found.extend(shown_passwords(config));
    found
}

/// Passwords that the process list shows, with the remedy.
fn shown_passwords(config: &Config) -> Vec<String> {
    let hooks = config.hooks.iter().enumerate();
    let commands = [("camera.command".to_owned(), &config.camera.command)]
        .into_iter()
        .chain(hooks.map(|(i, hook)| (format!("hooks.{i}.command"), &hook.command)));
    let shown = commands.filter(|(_, command)| command.iter().any(|argument| holds_secret(argument)));
    let warning = |(key, _)| {
        format!(
            "{key}: every user of this machine sees the password in the process list; \
             let the program read it from $CREDENTIALS_DIRECTORY (network.conf shows how)"
        )
    };
    shown.map(warning).collect()
}

struct Findings(Vec<Problem>);

impl Findings {
    fn add(&mut self, key: impl Into<Cow<'static, str>>, text: impl Into<String>) {
        self.0.push(Problem { key: key.into(), text: text.into() });
    }

    /// NaN is in no range.
    fn range<T: PartialOrd + std::fmt::Display>(&mut self, key: &'static str, value: T, least: T, most: T, unit: &str) {
        if !(value >= least && value <= most) {
            self.add(key, format!("{value} is out of range; give {least} to {most}{unit}"));
        }
    }

    fn duration(&mut self, key: impl Into<Cow<'static, str>>, value: Duration, least: Duration, most: Duration) {
        if value < least || value > most {
            self.add(key, format!("{value:?} is out of range; give {least:?} to {most:?}"));
        }
    }

    fn camera(&mut self, config: &Config) {
        let camera = &config.camera;
        self.range("camera.width", camera.width, 160, 4096, " px");
        self.range("camera.height", camera.height, 120, 4096, " px");
        if !camera.width.is_multiple_of(2) || !camera.height.is_multiple_of(2) {
            self.add("camera.width", "width and height must be even numbers of pixels");
        }
        self.range("camera.fps", camera.fps, 1, 60, " frames per second");
        if ![0, 90, 180, 270].contains(&camera.rotate) {
            self.add("camera.rotate", format!("{} is no quarter turn; give 0, 90, 180 or 270", camera.rotate));
        }
        self.duration("camera.timeout", camera.timeout, Duration::from_millis(500), Duration::from_secs(60));
        if !["auto", "yuyv", "nv12", "i420", "grey", "mjpeg"].contains(&camera.format.as_str()) {
            self.add(
                "camera.format",
                format!("\"{}\" is no format; give auto, yuyv, nv12, i420, grey or mjpeg", camera.format),
            );
        }
        match camera.source {
            CameraSource::Command if camera.command.is_empty() => self.add(
                "camera.source",
                "source = \"command\" needs camera.command, the program and its arguments as a list",
            ),
            CameraSource::Files if camera.folder.as_os_str().is_empty() => {
                self.add("camera.source", "source = \"files\" needs camera.folder, a folder of pictures");
            }
            _ => {}
        }
    }

    fn detection(&mut self, config: &Config) {
        let detection = &config.detection;
        self.range("detection.min_face", detection.min_face, 20, 1000, " px");
        for threshold in detection.thresholds {
            self.range("detection.thresholds", threshold, 0.1, 0.999, "");
        }
        self.range("detection.min_sharpness", detection.min_sharpness, 0.0, 1.0, "");
        self.range("detection.min_brightness", detection.min_brightness, 0.0, 255.0, "");
        self.range("detection.max_brightness", detection.max_brightness, 0.0, 255.0, "");
        self.range("detection.max_turn", detection.max_turn, 0.0, 1.0, "");
        if detection.min_brightness >= detection.max_brightness {
            self.add("detection.min_brightness", "min_brightness must be less than max_brightness");
        }
    }

    fn recognition(&mut self, config: &Config) {
        let recognition = &config.recognition;
        let rate = recognition.false_match_rate.0;
        if !(rate > 0.0 && rate <= 0.01) {
            self.add(
                "recognition.false_match_rate",
                format!("{rate} is out of range; give more than 0 and at most 1/100, for example \"1/10000\""),
            );
        }
        if let Some(distance) = recognition.max_distance {
            // Strangers lie around √2 of each other where embeddings are spread evenly, as in the ArcFace family.
            self.range("recognition.max_distance", distance, 0.05, 1.5, "");
        }
        if let Some(margin) = recognition.margin {
            self.range("recognition.margin", margin, 0.0, 0.5, "");
        }
        self.range("recognition.window", recognition.window, 1, 30, " frames");
        if recognition.confirm < 1 || recognition.confirm > recognition.window {
            self.add(
                "recognition.confirm",
                format!(
                    "{} of {} frames cannot agree; give 1 to recognition.window",
                    recognition.confirm, recognition.window
                ),
            );
        }
        let second = Duration::from_secs(1);
        self.duration("recognition.visit_gap", recognition.visit_gap, second / 2, second * 3600);
        self.duration("recognition.cooldown", recognition.cooldown, Duration::ZERO, second * 3600);
        self.duration("recognition.max_decision_age", recognition.max_decision_age, second / 10, second * 10);
    }

    fn enroll_and_store(&mut self, config: &Config) {
        let enroll = &config.enroll;
        self.duration("enroll.settle", enroll.settle, Duration::from_millis(100), Duration::from_secs(30));
        self.range("enroll.min_face", enroll.min_face, 20, 1000, " px");
        self.range("enroll.max_megapixels", enroll.max_megapixels, 1, 200, " megapixels");
        if let Some(spread) = enroll.max_spread {
            self.range("enroll.max_spread", spread, 0.2, 2.0, "");
        }
        self.range("enroll.keep_unknown", enroll.keep_unknown, 0, 1000, " people");
        self.duration(
            "enroll.unknown_expiry",
            enroll.unknown_expiry,
            Duration::from_secs(3600),
            Duration::from_secs(365 * 86_400),
        );
        self.duration(
            "store.keep_events",
            config.store.keep_events,
            Duration::from_secs(86_400),
            Duration::from_secs(3650 * 86_400),
        );
        self.range("store.max_events", config.store.max_events, 1_000, 10_000_000, " events");
        if within(&enroll.folder, &config.store.path) {
            self.add("enroll.folder", "the enroll folder and store.path must be folders apart from each other");
        }
    }

    fn http(&mut self, config: &Config) {
        let http = &config.http;
        self.range("http.fps", http.fps, 1, 30, " pictures per second");
        if http.enabled && !http.listen.ip().is_loopback() && http.password.is_empty() {
            self.add(
                "http.listen",
                format!(
                    "{} can be reached from other machines, which needs http.password; `facelatch password` makes one",
                    http.listen
                ),
            );
        }
        if http.enabled && http.proxied && http.password.is_empty() {
            self.add("http.proxied", "what a proxy hands on comes from other machines, which needs http.password; `facelatch password` makes one");
        }
        let hash = http.password.starts_with("${credential:")
            || argon2::password_hash::phc::PasswordHash::new(&http.password).is_ok();
        if !http.password.is_empty() && !hash {
            self.add(
                "http.password",
                "this is no hash; give what `facelatch password` prints, never the password itself",
            );
        }
        for (i, token) in http.tokens.iter().enumerate() {
            if token.hash.len() != 64 || !token.hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let remedy = "give what `facelatch password --token` prints";
                self.add(format!("http.tokens.{i}"), format!("no SHA-256 hash in hex; {remedy}"));
            }
            if token.may.as_ref().is_some_and(Vec::is_empty) {
                let scopes = "give some of \"metrics\", \"look\", \"enrol\", \"open\"";
                self.add(format!("http.tokens.{i}"), format!("may = [] allows nothing; {scopes}"));
            }
        }
        if !http.tokens.is_empty() && http.password.is_empty() {
            self.add(
                "http.tokens",
                "tokens mean nothing without http.password: without it nobody is asked who they are",
            );
        }
        if http.certificate.as_os_str().is_empty() != http.key.as_os_str().is_empty() {
            self.add("http.certificate", "certificate and key belong together; give both, or none");
        }
    }

    fn attendance(&mut self, config: &Config) {
        let attendance = &config.attendance;
        self.duration("attendance.gap", attendance.gap, Duration::ZERO, Duration::from_secs(12 * 3600));
        if attendance.zone().is_none() {
            self.add(
                "attendance.time_zone",
                format!(
                    "\"{}\" is no time zone of this system; give \"system\" or one that `timedatectl list-timezones` shows (package tzdata)",
                    attendance.time_zone
                ),
            );
        }
    }

    fn latch(&mut self, config: &Config) {
        let latch = &config.latch;
        self.duration("latch.hold", latch.hold, Duration::from_millis(100), Duration::from_secs(60));
        self.duration("latch.max_hold", latch.max_hold, Duration::from_millis(100), Duration::from_secs(60));
        if latch.hold > latch.max_hold {
            self.add("latch.hold", format!("{:?} is longer than latch.max_hold ({:?})", latch.hold, latch.max_hold));
        }
        if let Some(budget) = latch.max_active_per_minute {
            self.duration("latch.max_active_per_minute", budget, Duration::from_millis(100), Duration::from_secs(60));
            if latch.hold > budget {
                let problem = format!("{budget:?} is shorter than latch.hold ({:?}): nothing would open", latch.hold);
                self.add("latch.max_active_per_minute", problem);
            }
        }
        if config.mode == Mode::Unlock && latch.line.is_none() {
            self.add("mode", "mode = \"unlock\" needs latch.line, the line of the relay; set it, or mode = \"attendance\" for a door that is not driven");
        }
        let lines = [
            ("latch.line", &latch.line),
            ("led.ready", &config.led.ready),
            ("led.granted", &config.led.granted),
            ("led.denied", &config.led.denied),
        ];
        for (i, (key, line)) in lines.iter().enumerate() {
            if let Some((other, _)) = lines[..i].iter().find(|(_, other)| line.is_some() && other == line) {
                self.add(*key, format!("the same line as {other}; each needs one of its own"));
            }
            if latch.backend == GpioBackend::Rppal && matches!(line, Some(LineChoice::Name(_))) {
                self.add(
                    *key,
                    "latch.backend = \"rppal\" knows lines by BCM number only; give a number or another backend",
                );
            }
        }
    }

    fn mqtt(&mut self, mqtt: &MqttConfig) {
        self.range("mqtt.queue", mqtt.queue, 1, 100_000, " events");
        let file = !mqtt.password_file.as_os_str().is_empty();
        if file && !mqtt.password.is_empty() {
            self.add("mqtt.password", "there is a password_file too; give one of them");
        }
        if mqtt.user.is_empty() && (file || !mqtt.password.is_empty()) {
            self.add("mqtt.user", "a password needs mqtt.user, the broker's user");
        }
        for (key, topic) in [("mqtt.prefix", &mqtt.prefix), ("mqtt.discovery", &mqtt.discovery)] {
            let strange = |c: char| c == '+' || c == '#' || c.is_control() || c.is_whitespace();
            let parted = topic.is_empty() || topic.split('/').all(|part| !part.is_empty());
            if !parted || topic.contains(strange) || topic.starts_with('$') || topic.len() > 200 {
                self.add(key, "no beginning of a topic; give words with / between them, for example \"house/door\"");
            }
        }
        if mqtt.name.len() > 100 {
            self.add("mqtt.name", "longer than 100 bytes; give a shorter name");
        }
    }

    fn hooks(&mut self, hooks: &[HookConfig]) {
        // Each has a thread of its own.
        if hooks.len() > 16 {
            self.add("hooks", format!("{} are too many; give at most 16", hooks.len()));
        }
        for (i, hook) in hooks.iter().enumerate() {
            let key = |name: &str| format!("hooks.{i}.{name}");
            if hook.on.is_empty() {
                self.add(key("on"), "no event is named; give for example on = [\"granted\", \"denied\"]");
            }
            match (hook.command.is_empty(), hook.url.is_empty()) {
                (true, true) => self.add(key("command"), "neither command nor url is set; give one of them"),
                (false, false) => {
                    self.add(key("url"), "there is a command too; give one of them, and a hook for the other")
                }
                (true, false) if !hook.url.starts_with("http://") && !hook.url.starts_with("https://") => {
                    self.add(key("url"), "no address; give one that begins with https:// or http://");
                }
                _ => {}
            }
            let file = !hook.secret_file.as_os_str().is_empty();
            if file && !hook.secret.is_empty() {
                self.add(key("secret"), "there is a secret_file too; give one of them");
            }
            if hook.url.is_empty() && (file || !hook.secret.is_empty()) {
                self.add(key("secret"), "only what is sent to a url is signed; take it out");
            }
            self.duration(key("timeout"), hook.timeout, Duration::from_millis(100), Duration::from_secs(300));
        }
    }
}
