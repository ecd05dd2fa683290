use std::fs;

use super::*;

const SHIPPED: &str = include_str!("../../config/facelatch.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/facelatch/facelatch.toml"))
}

/// The message for a configuration that is right but for `text`.
fn refusal(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn the_shipped_file_loads_and_says_the_defaults() {
    let mut expected = Config::default();
    expected.latch.line = Some(LineChoice::Number(17));
    assert_eq!(parse(SHIPPED).unwrap(), expected);
}

#[test]
fn the_relays_budget_is_half_a_minute_or_one_long_pulse() {
    let latch =
        |keys: &str| parse(&format!("[latch]\nline = 17\n{keys}\n")).map(|config| config.latch.budget().as_secs());
    assert_eq!(latch("").unwrap(), 30);
    assert_eq!(latch("hold = \"50s\"\nmax_hold = \"60s\"").unwrap(), 60, "as before there was a budget");
    assert_eq!(latch("max_active_per_minute = \"12s\"").unwrap(), 12);
    assert!(latch("hold = \"5s\"\nmax_active_per_minute = \"4s\"").unwrap_err().to_string().contains("latch.hold"));
    assert!(latch("max_active_per_minute = \"61s\"").is_err());
}

#[test]
fn every_shipped_file_loads() {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            // As text: a checkout may belong to anybody.
            Config::parse(&fs::read_to_string(&path).unwrap(), &path).unwrap();
        }
    }
}

/// Debug output names every field of every section; each must stand in the shipped file, commented out at least.
#[test]
fn the_shipped_file_names_every_key() {
    let debug = format!("{:?} {:?}", Config::default(), HookConfig::default());
    let keys = debug.split([',', '{']).filter_map(|part| part.split_once(": ")).map(|(key, _)| key.trim());
    for key in keys {
        let written = SHIPPED.lines().any(|line| {
            let line = line.trim_start_matches("# ");
            line.starts_with(&format!("{key} = ")) || line == format!("[{key}]") || line == format!("[[{key}]]")
        });
        assert!(written, "{key} is not in config/facelatch.toml");
    }
}

#[test]
fn an_unknown_key_is_refused_with_line_and_suggestion() {
    let message = refusal("mode = \"attendance\"\n[latch]\nholt = \"3s\"\n");
    assert!(message.contains("facelatch.toml:3") && message.contains("did you mean `hold`"), "{message}");
}

#[test]
fn a_password_that_the_process_list_shows_is_warned_of() {
    let warnings = |text: &str| parse(&format!("[latch]\nline = 17\n{text}")).unwrap().warnings();
    let camera = |url: &str| format!("[camera]\nsource = \"command\"\ncommand = [\"ffmpeg\", \"-i\", \"{url}\"]\n");
    for url in ["rtsp://cam:${credential:camera}@10.0.0.5/1", "rtsp://cam:s3cret@10.0.0.5/1"] {
        let warned = warnings(&camera(url));
        assert!(matches!(&warned[..], [one] if one.starts_with("camera.command: ")), "{warned:?}");
        assert!(!warned[0].contains("s3cret") && warned[0].contains("$CREDENTIALS_DIRECTORY"));
    }
    assert_eq!(warnings(&camera("rtsp://10.0.0.5/1")), [""; 0]);
    let hook = "[[hooks]]\non = [\"granted\"]\ncommand = [\"curl\", \"-u\", \"me:${credential:hook}\"]\n";
    assert!(warnings(hook)[0].starts_with("hooks.0.command: "));
}

#[test]
fn a_duration_without_unit_is_refused() {
    let message = refusal("mode = \"attendance\"\n[latch]\nhold = 3\n");
    assert!(message.contains(":3:") && message.contains("latch.hold") && message.contains("\"5s\""), "{message}");
    assert!(refusal("[latch]\nhold = \"3\"\n").contains("unit"));
}

#[test]
fn out_of_range_and_contradictory_values_are_refused_all_at_once_in_order() {
    let message = refusal("[camera]\nrotate = 45\n[latch]\nline = 17\nhold = \"20s\"\n[recognition]\nconfirm = 6\n");
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines.len(), 3, "{message}");
    assert!(lines[0].contains(":2: camera.rotate") && lines[0].contains("give 0, 90, 180 or 270"));
    assert!(lines[1].contains(":5: latch.hold") && lines[1].contains("max_hold"));
    assert!(lines[2].contains(":7: recognition.confirm"));
}

#[test]
fn unlock_without_a_line_is_refused() {
    assert!(refusal("mode = \"unlock\"\n").contains("latch.line"));
    assert!(parse("mode = \"attendance\"\n").is_ok());
}

#[test]
fn what_is_not_a_number_is_refused() {
    for key in [
        "margin = nan",
        "max_distance = nan",
        "false_match_rate = nan",
        "false_match_rate = \"0/0\"",
        "false_match_rate = \"1/0\"",
    ] {
        assert!(refusal(&format!("mode = \"attendance\"\n[recognition]\n{key}\n")).contains("out of range"), "{key}");
    }
    let detection = refusal("mode = \"attendance\"\n[detection]\nmin_sharpness = nan\nmax_turn = -1\n");
    assert!(detection.contains("min_sharpness") && detection.contains("max_turn"), "{detection}");
}

#[test]
fn an_empty_file_is_refused() {
    assert!(refusal(" \n").contains("is empty"));
}

#[test]
fn rates_are_fractions_or_numbers() {
    for text in ["\"1/10000\"", "0.0001", "1e-4"] {
        let config = parse(&format!("mode = \"attendance\"\n[recognition]\nfalse_match_rate = {text}\n")).unwrap();
        assert!((config.recognition.false_match_rate.0 - 1e-4).abs() < 1e-12);
    }
}

#[test]
fn one_line_for_two_purposes_is_refused() {
    assert!(refusal("[latch]\nline = 17\n[led]\nready = 17\n").contains("the same line as latch.line"));
}

#[test]
fn a_page_that_everybody_could_reach_is_refused() {
    let wrong = |text: &str| refusal(&format!("mode = \"attendance\"\n[http]\nenabled = true\n{text}\n"));
    for (keys, words) in [
        ("listen = \"0.0.0.0:8420\"", ":4: http.listen: 0.0.0.0:8420 can be reached from other machines"),
        ("listen = \"[::]:8420\"", "needs http.password; `facelatch password` makes one"),
        ("listen = \"door:8420\"", "http.listen"),
        ("proxied = true", ":4: http.proxied"),
        ("password = \"correct horse\"", "never the password itself"),
        ("tokens = [\"secret\"]", "no SHA-256 hash in hex"),
        ("tokens = [{ token = \"secret\", may = [] }]", ":4: http.tokens.0: may = [] allows nothing"),
        ("tokens = [{ token = \"\", may = [\"opne\"] }]", "did you mean `open`"),
        ("tokens = [{ may = [\"open\"] }]", "missing field `token`"),
        ("tokens = [7]", "a token such as { token = "),
        ("certificate = \"a.pem\"", "certificate and key belong together"),
        ("fps = 0", "http.fps: 0 is out of range"),
    ] {
        let message = wrong(keys);
        assert!(message.contains(words), "{keys}: {message}");
        assert!(!message.contains("correct horse"), "the password is not repeated in the log");
    }
    let hash = crate::http::auth::hash_of_password("correct horse").unwrap();
    let open =
        format!("mode = \"attendance\"\n[http]\nenabled = true\nlisten = \"0.0.0.0:8420\"\npassword = \"{hash}\"\n");
    assert_eq!(parse(&open).unwrap().http.password, hash);
    let of_credential = open.replace(&hash, "${credential:page}");
    assert_eq!(parse(&of_credential).unwrap().http.password, "${credential:page}");
}

#[test]
fn a_day_that_cannot_be_is_refused() {
    let wrong = |text: &str| refusal(&format!("mode = \"attendance\"\n[attendance]\n{text}\n"));
    let zone = wrong("time_zone = \"Europe/Berln\"");
    assert!(zone.contains(":3: attendance.time_zone") && zone.contains("list-timezones"), "{zone}");
    assert!(wrong("day_start = \"4\"").contains("give \"00:00\" to \"23:59\""));
    assert!(wrong("day_start = 4").contains("a time of day in quotes"));
    assert!(wrong("gap = \"13h\"").contains("attendance.gap"));
    assert!(wrong("direction = \"in\"").contains("attendance.direction"));
}

#[test]
fn a_hook_that_cannot_be_right_is_refused_where_it_stands() {
    let good = "mode = \"attendance\"\n[[hooks]]\non = [\"granted\"]\ncommand = [\"logger\"]\n";
    assert_eq!(parse(good).unwrap().hooks[0].on, [EventName::Granted]);
    let message = refusal(&format!("{good}[[hooks]]\non = [\"grantd\"]\ncommand = [\"logger\"]\n"));
    assert!(message.contains("facelatch.toml:6") && message.contains("did you mean `granted`"), "{message}");
    for (hook, line, words) in [
        ("on = []\nurl = \"https://example.org\"\n", 6, "no event is named"),
        ("on = [\"denied\"]\n", 5, "neither command nor url"),
        ("on = [\"denied\"]\ncommand = [\"a\"]\nurl = \"https://b\"\n", 8, "a command too"),
        ("on = [\"denied\"]\nurl = \"example.org\"\n", 7, "begins with https://"),
        ("on = [\"denied\"]\ncommand = [\"a\"]\nsecret = \"b\"\n", 8, "only what is sent"),
        ("on = [\"denied\"]\ncommand = [\"a\"]\ntimeout = \"1h\"\n", 8, "out of range"),
    ] {
        let message = refusal(&format!("{good}[[hooks]]\n{hook}"));
        assert!(message.contains(&format!(":{line}: hooks.1.")) && message.contains(words), "{message}");
    }
}

#[test]
fn a_broker_that_cannot_be_right_is_refused() {
    for (keys, words) in [
        ("broker = \"pi.local\"", "facelatch.toml:3: mqtt.broker: \"pi.local\" is no broker"),
        ("password = \"x\"", "needs mqtt.user"),
        ("user = \"a\"\npassword = \"x\"\npassword_file = \"y\"", "a password_file too"),
        ("prefix = \"a/#\"", "mqtt.prefix"),
        ("prefix = \"/a\"", "mqtt.prefix"),
        ("discovery = \"$SYS\"", "mqtt.discovery"),
        ("queue = 0", "mqtt.queue: 0 is out of range"),
    ] {
        let message = refusal(&format!("mode = \"attendance\"\n[mqtt]\n{keys}\n"));
        assert!(message.contains(words), "{keys}: {message}");
    }
}

#[test]
fn what_is_seldom_meant_is_warned_of() {
    let hash = "0".repeat(64);
    let warned = |text: &str| parse(text).unwrap().warnings().join("\n");
    let door = |mqtt: &str| warned(&format!("[latch]\nline = 17\n[mqtt]\n{mqtt}\n"));
    let plain = door("broker = \"mqtt://pi.local\"\nallow_open = true");
    assert!(plain.starts_with("mqtt.allow_open: ") && plain.contains("mqtts://"), "{plain}");
    for fine in [
        "broker = \"mqtts://pi.local\"\nallow_open = true",
        "broker = \"mqtt://pi.local\"",
        "broker = \"mqtt://localhost\"\nallow_open = true",
        "broker = \"mqtt://[::1]\"\nallow_open = true",
        "allow_open = true",
    ] {
        assert_eq!(door(fine), "", "{fine}");
    }
    let page = |keys: &str| {
        let password = crate::http::auth::hash_of_password("correct horse").unwrap();
        warned(&format!("mode = \"attendance\"\n[http]\nenabled = true\npassword = \"{password}\"\n{keys}\n"))
    };
    assert!(page("listen = \"0.0.0.0:8420\"").starts_with("http.certificate: "));
    assert_eq!(page("listen = \"0.0.0.0:8420\"\nproxied = true"), "");
    assert!(page(&format!("tokens = [\"{hash}\"]")).starts_with("http.tokens.0: "));
    assert_eq!(page(&format!("tokens = [{{ token = \"{hash}\" }}]")), "");
}

#[test]
fn a_token_without_scopes_may_as_before_and_a_new_one_the_least() {
    let hash = "a".repeat(64);
    let password = crate::http::auth::hash_of_password("correct horse").unwrap();
    let text = format!(
        "mode = \"attendance\"\n[http]\npassword = \"{password}\"\n\
         tokens = [\"{hash}\", {{ token = \"{hash}\" }}, {{ token = \"{hash}\", may = [\"look\", \"enrol\", \"enroll\"] }}]\n"
    );
    let tokens = parse(&text).unwrap().http.tokens;
    use token::Scope;
    let may = |token: &Token| [Scope::Metrics, Scope::Look, Scope::Enrol, Scope::Open].map(|scope| token.allows(scope));
    assert_eq!(may(&tokens[0]), [true; 4]);
    assert_eq!(may(&tokens[1]), [true, false, false, false]);
    assert_eq!(may(&tokens[2]), [false, true, true, false]);
}

#[test]
fn relative_paths_start_at_the_file() {
    let config = parse("mode = \"attendance\"\n[models]\ndir = \"models\"\n").unwrap();
    assert_eq!(config.models.dir, Path::new("/etc/facelatch/models"));
}

proptest::proptest! {
    #[test]
    fn rubbish_never_panics(text in "\\PC{0,200}", key in "[a-z]{1,8}", value in "\\PC{0,20}") {
        let _ = parse(&text);
        let _ = parse(&format!("[latch]\n{key} = {value}\n"));
        let _ = parse(&format!("[camera]\n{key} = \"{value}\"\n[recognition]\nmargin = {value}"));
    }
}
