//! `facelatch doctor`: one line per thing that has to be right, with the remedy.

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
    camera::v4l2,
    config::{CameraSource, Config, GpioBackend},
    control::{ControlClient, Request, Response},
    gpio,
    store::Store,
    telemetry::printable,
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

/// Prints the examination; 0 when nothing failed, 78 for a wrong configuration, else 69.
pub(super) fn run(path: &Path, json: bool) -> u8 {
    let (checks, code) = match Config::load(path) {
        Err(error) => (
            vec![check(
                "configuration",
                Verdict::Fail,
                error.to_string(),
                "mend the file; `facelatch check` reads it again",
            )],
            exit::CONFIG,
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
    let running =
        ControlClient::connect(&config.control.socket).and_then(|mut client| client.ask(&Request::Status)).ok();
    let mut checks = vec![ok("configuration", path.display().to_string())];
    checks.push(match &running {
        Some(Response::Status { status }) => {
            ok("daemon", format!("running, process {}, up for {:?}", status.pid, Duration::from_secs(status.uptime_s)))
        }
        _ => check("daemon", Verdict::Warn, "not running", "systemctl start facelatch"),
    });
    checks.extend(camera(config));
    checks.extend(lines(config));
    checks.extend(models(config));
    checks.push(store(config, running.is_some()));
    checks.push(enroll_folder(config));
    checks.push(space(config));
    checks.push(clock());
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
            let paths = std::env::var_os("PATH").unwrap_or_default();
            let found = std::env::split_paths(&paths).map(|dir| dir.join(&program)).any(|file| file.is_file());
            vec![if found {
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
            devices.into_iter().map(describe).collect()
        }
    }
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
        ok("gpio", format!("{} ({}), {} lines, {used}; relay on {wanted}", chip.path.display(), chip.label, chip.lines))
    };
    chips.into_iter().map(describe).collect()
}

fn models(config: &Config) -> Vec<Check> {
    const REMEDY: &str = "reinstall the package, or set models.dir and models.embedder";
    let manifest = match Manifest::load(&config.models.dir) {
        Ok(manifest) => manifest,
        Err(error) => return vec![check("models", Verdict::Fail, error.to_string(), REMEDY)],
    };
    let whole = manifest.nets().iter().map(|net| {
        manifest.read_net(net)?;
        net.last_layer.as_ref().map_or(Ok(()), |layer| manifest.read_layer(layer).map(drop))
    });
    let verified: Result<Vec<()>, _> = whole.collect();
    let embedder =
        manifest.embedder(&config.models.embedder).map(|net| net.mirroring(config.models.mirror)).and_then(|net| {
            match config.recognition.max_distance {
                Some(distance) => Ok(distance),
                None => net.distance_for(config.recognition.false_match_rate.0),
            }
        });
    vec![match (verified, embedder) {
        (Ok(nets), Ok(distance)) => ok(
            "models",
            format!(
                "{} nets verified in {}; embedder {}, a match is nearer than {distance:.3}",
                nets.len(),
                config.models.dir.display(),
                config.models.embedder
            ),
        ),
        (Err(error), _) | (_, Err(error)) => check("models", Verdict::Fail, error.to_string(), REMEDY),
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
            "run this as root or as the user facelatch",
        ),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => check(
            "store",
            Verdict::Warn,
            format!("{} can be read by others", path.display()),
            "chmod 700 it: templates are personal data",
        ),
        Ok(_) if running => ok("store", format!("{}, open in the daemon", path.display())),
        Ok(_) => match Store::open(path, crate::service::now_ms())
            .and_then(|(store, notes)| Ok((store.people()?.len(), notes)))
        {
            Ok((people, notes)) if notes.is_empty() => ok("store", format!("{}, {people} people", path.display())),
            Ok((people, notes)) => check(
                "store",
                Verdict::Warn,
                format!("{people} people; {}", notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
                "it was repaired just now; look at the enroll folder",
            ),
            Err(error) => check("store", Verdict::Fail, error.to_string(), "run this as root or as the user facelatch"),
        },
    }
}

fn enroll_folder(config: &Config) -> Check {
    let folder = &config.enroll.folder;
    let Ok(meta) = fs::metadata(folder) else {
        return check(
            "enroll folder",
            Verdict::Warn,
            format!("{} is not there yet", folder.display()),
            "it is made at the first start",
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
