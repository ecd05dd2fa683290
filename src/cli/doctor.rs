//! `facelatch doctor`: one line per thing that has to be right, with the remedy.

mod outside;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::json;

use super::exit;
use crate::{
    api::{Status, ask},
    camera::v4l2,
    config::{CameraSource, Config, GpioBackend},
    control::ControlClient,
    gpio,
    store::{Store, StoreError},
    telemetry::printable,
    threshold::Threshold,
    vision::manifest::Manifest,
};

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One line.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

fn check(name: &'static str, verdict: Verdict, seen: impl Into<String>, remedy: &str) -> Check {
    Check { name, verdict, seen: seen.into(), remedy: (verdict != Verdict::Ok).then(|| remedy.to_owned()) }
}

fn ok(name: &'static str, seen: impl Into<String>) -> Check {
    check(name, Verdict::Ok, seen, "")
}

/// Prints the examination; 0 when nothing failed, 78 for a wrong configuration (77 for an unreadable one), else 69.
pub(super) fn run(path: &Path, json: bool) -> u8 {
    let (checks, code) = match Config::load(path) {
        Err(error) => (
            vec![check(
                "configuration",
                Verdict::Fail,
                error.to_string(),
                "mend the file; `facelatch check` reads it again",
            )],
            super::exit::of(error.kind()),
        ),
        Ok(config) => {
            let checks = examine(path, &config);
            let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
            (checks, if failed { exit::UNAVAILABLE } else { exit::DONE })
        }
    };
    if json {
        println!("{}", json!(checks));
        return code;
    }
    for Check { name, verdict, seen, remedy } in &checks {
        let mark = match verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let remedy = remedy.as_ref().map_or_else(String::new, |remedy| format!("\n      → {remedy}"));
        println!("{mark}  {name:13}  {seen}{remedy}");
    }
    code
}

fn examine(path: &Path, config: &Config) -> Vec<Check> {
    let running = ControlClient::connect(&config.control.socket).and_then(|mut client| client.ask(ask::Status {})).ok();
    let mut checks = vec![ok("configuration", path.display().to_string())];
    checks.extend(config.warnings().into_iter().map(|warning| {
        check(
            "configuration",
            Verdict::Warn,
            warning,
            "facelatch check reads the file again; docs/page.md, docs/home-automation.md",
        )
    }));
    let pid = running.as_ref().map(|status| status.pid);
    checks.push(match &running {
        Some(status) => {
            let Status { pid, model, precision, .. } = status;
            let up = Duration::from_secs(status.uptime_s);
            ok("daemon", format!("running, process {pid}, up for {up:?}; embedder {model} calculated as {precision}"))
        }
        None => check("daemon", Verdict::Warn, "not running", "systemctl start facelatch"),
    });
    if let Some(status) = &running {
        let failed = |problem: &String| check("people", Verdict::Fail, printable(problem), "see the reason");
        checks.extend(status.problems.iter().map(failed));
        const REMEDY: &str = "facelatch people says it of each; facelatch calibrate says how near they are";
        checks.extend(status.advice.iter().map(|advice| check("people", Verdict::Warn, printable(advice), REMEDY)));
    }
    checks.extend(camera(config));
    if let Some(status) = &running {
        checks.extend(turned(status));
    }
    checks.extend(lines(config));
    checks.extend(models(config));
    checks.push(store(config, running.is_some()));
    checks.push(enroll_folder(config));
    checks.push(space(config));
    checks.push(clock());
    checks.extend(outside::examine(config, pid));
    checks
}

fn camera(config: &Config) -> Vec<Check> {
    match config.camera.source {
        CameraSource::Files => match fs::read_dir(&config.camera.folder) {
            Ok(_) => vec![ok("camera", format!("pictures of {}", config.camera.folder.display()))],
            Err(error) => vec![check(
                "camera",
                Verdict::Fail,
                format!("{}: {error}", config.camera.folder.display()),
                "set camera.folder to a folder of pictures",
            )],
        },
        CameraSource::Command => {
            let program = config.camera.command.first().cloned().unwrap_or_default();
            vec![if outside::find(&program).is_some() {
                ok("camera", format!("the program {program}"))
            } else {
                check(
                    "camera",
                    Verdict::Fail,
                    format!("the program {program} is not there"),
                    "install it (apt install rpicam-apps, or ffmpeg), or mend camera.command",
                )
            }]
        }
        CameraSource::V4l2 => {
            let devices = v4l2::list();
            if devices.is_empty() {
                return vec![check(
                    "camera",
                    Verdict::Fail,
                    "no video device can be opened",
                    "plug in a camera, add the user to the group video, or set camera.source = \"command\" for a ribbon cable camera",
                )];
            }
            let describe = |device: v4l2::DeviceSummary| {
                let path = device.by_id.as_ref().unwrap_or(&device.path).display().to_string();
                let mut formats: Vec<String> =
                    device.modes.iter().map(|m| format!("{:?} {}×{}", m.format, m.width, m.height)).collect();
                formats.truncate(6);
                let seen = format!("{path} ({}, {}): {}", printable(&device.card), device.driver, formats.join(", "));
                match device.modes.is_empty() {
                    false => ok("camera", seen),
                    true => check(
                        "camera",
                        Verdict::Warn,
                        seen + "no format this program reads",
                        "a ribbon cable camera is read through camera.source = \"command\"",
                    ),
                }
            };
            absent(&config.camera.device, &devices).into_iter().chain(devices.into_iter().map(describe)).collect()
        }
    }
}

/// A camera that hangs upside down or on its side, as the daemon noticed it.
fn turned(status: &Status) -> Option<Check> {
    let remedy = "mend camera.rotate in the configuration, then systemctl reload facelatch";
    status.camera_advice.is_some().then(|| check("camera", Verdict::Warn, &status.camera, remedy))
}

/// The configured camera, if it is not among those there are.
fn absent(device: &str, devices: &[v4l2::DeviceSummary]) -> Option<Check> {
    let target = fs::canonicalize(device).unwrap_or_else(|_| device.into());
    let there = device == "auto" || devices.iter().any(|known| known.path == target);
    (!there).then(|| {
        let seen = format!("{device} (camera.device) is not there, or is no camera");
        check("camera", Verdict::Fail, seen, "plug it in, or set camera.device to one of those below, or to \"auto\"")
    })
}

fn lines(config: &Config) -> Vec<Check> {
    let wanted = config.latch.line.as_ref().map_or_else(|| "none".into(), ToString::to_string);
    if config.latch.backend == GpioBackend::Simulated {
        return vec![check(
            "gpio",
            Verdict::Warn,
            format!("relay on {wanted}, simulated: nothing is driven"),
            "set latch.backend = \"auto\" for a real door",
        )];
    }
    let chips = gpio::survey();
    if chips.is_empty() {
        return vec![check(
            "gpio",
            Verdict::Fail,
            "no GPIO chip can be opened",
            "is this a board with GPIO, and the user in the group gpio?",
        )];
    }
    let describe = |chip: gpio::ChipSummary| {
        let used: Vec<String> = chip.used.iter().map(|(line, user)| format!("{line} by {}", printable(user))).collect();
        let used = if used.is_empty() { "none in use".into() } else { format!("in use: {}", used.join(", ")) };
        ok("gpio", format!("{} ({}), {} lines, {used}", chip.path.display(), chip.label, chip.lines))
    };
    chips.into_iter().map(describe).chain(relay(config)).collect()
}

/// The line is looked up, not taken: the daemon may be driving it.
fn relay(config: &Config) -> Option<Check> {
    let line = config.latch.line.as_ref()?;
    let used = match gpio::look_up(&config.latch.chip, line) {
        Ok(used) => used,
        Err(error) => return Some(check("relay", Verdict::Fail, error.to_string(), "set latch.chip and latch.line")),
    };
    let place = format!("{} line {}", used.chip.display(), used.offset);
    Some(match &used.user {
        None => ok("relay", place),
        Some(_) if used.is_ours() => ok("relay", format!("{place}, driven by the daemon")),
        Some(user) => check(
            "relay",
            Verdict::Fail,
            format!("{place} is in use by \"{}\"", printable(user)),
            "stop that program, or set latch.line to another line",
        ),
    })
}

fn models(config: &Config) -> Vec<Check> {
    const REMEDY: &str = "reinstall the package, or set models.dir and models.embedder";
    let manifest = match Manifest::load(&config.models.dir) {
        Ok(manifest) => manifest,
        Err(error) => return vec![check("models", Verdict::Fail, error.to_string(), REMEDY)],
    };
    let whole = manifest.nets().iter().map(|net| {
        manifest.read_net(net)?;
        net.last_layer.iter().chain(&net.hidden).try_for_each(|layer| manifest.read_layer(layer).map(drop))
    });
    let verified: Result<Vec<()>, _> = whole.collect();
    let embedder = manifest.embedder(&config.models.embedder).map_err(|error| error.to_string()).and_then(|net| {
        // With nobody enrolled; how many there are only the store knows, which the running daemon holds.
        let net = net.mirroring(config.models.mirror);
        Threshold::choose(&net, &config.recognition, 0).map_err(|error| error.to_string())
    });
    vec![match (verified, embedder) {
        (Ok(nets), Ok(threshold)) => ok(
            "models",
            format!(
                "{} nets verified in {}; embedder {}, {threshold}; the more are enrolled, the nearer a match may have to be",
                nets.len(),
                config.models.dir.display(),
                config.models.embedder,
            ),
        ),
        (Err(error), _) => check("models", Verdict::Fail, error.to_string(), REMEDY),
        (_, Err(error)) => {
            check("models", Verdict::Fail, error, "correct recognition.false_match_rate or models.embedder")
        }
    }]
}

fn store(config: &Config, running: bool) -> Check {
    let path = &config.store.path;
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => check(
            "store",
            Verdict::Warn,
            format!("{} is not there yet", path.display()),
            "it is made at the first start",
        ),
        Err(error) => check(
            "store",
            Verdict::Fail,
            format!("{}: {error}", path.display()),
            "run this as the user facelatch, or as root",
        ),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => check(
            "store",
            Verdict::Warn,
            format!("{} can be read by others", path.display()),
            "chmod 700 it: templates are personal data",
        ),
        Ok(_) if running => ok("store", format!("{}, open in the daemon", path.display())),
        Ok(_) => match Store::open(path, crate::service::now_ms()).and_then(|(store, notes)| {
            crate::service::record_notes(&store, &notes);
            Ok((store.people()?.len(), notes))
        }) {
            Ok((people, notes)) if notes.is_empty() => ok("store", format!("{}, {people} people", path.display())),
            Ok((people, notes)) => check(
                "store",
                Verdict::Warn,
                format!("{people} people; {}", notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
                "it was repaired just now; look at the enroll folder",
            ),
            // Root would leave files behind that lock the daemon out.
            Err(StoreError::Foreign { .. }) => check(
                "store",
                Verdict::Warn,
                format!("{}: another user's, not opened", path.display()),
                "sudo -u facelatch facelatch doctor",
            ),
            Err(error) => check("store", Verdict::Fail, error.to_string(), "run this as the user facelatch"),
        },
    }
}

fn enroll_folder(config: &Config) -> Check {
    let folder = &config.enroll.folder;
    let Ok(meta) = fs::metadata(folder) else {
        return check(
            "enroll folder",
            Verdict::Warn,
            format!("{} is not there", folder.display()),
            "it is made at the first start; if people are enrolled, mount it or put it back",
        );
    };
    let refused = count_sidecars(folder);
    if meta.permissions().mode() & 0o007 != 0 {
        check(
            "enroll folder",
            Verdict::Warn,
            format!("{} is open to everybody", folder.display()),
            "chmod o= it: whoever writes there opens the door",
        )
    } else if refused > 0 {
        check(
            "enroll folder",
            Verdict::Warn,
            format!("{}: {refused} pictures were refused", folder.display()),
            "each has a file .rejected.txt beside it that says why",
        )
    } else {
        ok("enroll folder", folder.display().to_string())
    }
}

fn count_sidecars(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count_sidecars(&entry.path()),
            _ => usize::from(entry.file_name().to_string_lossy().ends_with(".rejected.txt")),
        })
        .sum()
}

fn space(config: &Config) -> Check {
    let there = config.store.path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(stat) => {
            let free_mib = stat.f_bavail * stat.f_frsize / (1 << 20);
            let verdict = if free_mib < 10 {
                Verdict::Fail
            } else if free_mib < 100 {
                Verdict::Warn
            } else {
                Verdict::Ok
            };
            check(
                "disk",
                verdict,
                format!("{free_mib} MiB free for the store"),
                "make room: people and events cannot be written on a full disk",
            )
        }
        Err(error) => check("disk", Verdict::Warn, error.to_string(), "the free space cannot be seen"),
    }
}

/// 2025-01-01: a clock before this program was written has never been set.
const WRITTEN: Duration = Duration::from_secs(1_735_689_600);

fn clock() -> Check {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = super::print::local_time(now.as_millis() as i64);
    if now < WRITTEN {
        check(
            "clock",
            Verdict::Warn,
            format!("{time}: it was not set"),
            "wait for the network time, or add a real-time clock: events carry wrong times",
        )
    } else if Path::new("/run/systemd/timesync").exists() && !Path::new("/run/systemd/timesync/synchronized").exists() {
        check("clock", Verdict::Warn, format!("{time}, not synchronised yet"), "timedatectl shows why")
    } else {
        ok("clock", time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_camera_that_is_not_there_fails() {
        let there = v4l2::DeviceSummary {
            path: "/dev/null".into(),
            by_id: None,
            card: "Door".into(),
            driver: "uvcvideo".into(),
            modes: Vec::new(),
        };
        let there = [there];
        assert!(absent("auto", &there).is_none());
        assert!(absent("/dev/null", &there).is_none());
        assert!(absent("/dev/../dev/null", &there).is_none(), "another path to the same device, as by-id gives");
        let missing = absent("/dev/video99", &there).unwrap();
        assert_eq!(missing.verdict, Verdict::Fail);
        assert!(missing.seen.contains("/dev/video99"), "{}", missing.seen);
    }
}
