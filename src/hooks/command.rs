//! A hook that is a program.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
};
use serde_json::Value;

use super::{FAREWELL, LOOK_UP, Notice, Stop};
use crate::{
    config::{HookConfig, secret::arguments_with_credentials},
    program::{Program, listen::Lines},
};

/// Runs the program until it ends; it is killed when its time is over, or everything has to stop. What it says is logged at debug.
pub(super) fn run(config: &HookConfig, notice: &Notice, name: &str, stop: &Stop) -> Result<(), String> {
    let [program, arguments @ ..] = &config.command[..] else { return Err("there is no program".into()) };
    let (arguments, secrets) = arguments_with_credentials(arguments, "hooks.command")?;
    let (mut output, to_output) = io::pipe().map_err(|error| error.to_string())?;
    let same_output = to_output.try_clone().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(arguments).envs(variables(notice));
    command.stdin(input(notice).map_err(|error| error.to_string())?).stdout(to_output).stderr(same_output);
    let started = Program::start(&mut command);
    // Its ends of the pipe: as long as they are open here, the output would not come to its end.
    drop(command);
    let mut running = started.map_err(|error| format!("{error}; is it installed, and hooks.command right?"))?;
    let (mut last, mut lines) = (String::new(), Lines::default());
    let mut say = |line: String| {
        let line = secrets.kept_out(&line);
        log::debug!("{name}: {line}");
        last = line;
    };
    let begun = Instant::now();
    let mut until = begun + config.timeout;
    let mut open = true;
    while !running.has_exited() && Instant::now() < until {
        if stop.is_set() {
            until = until.min(Instant::now() + FAREWELL.saturating_sub(2 * LOOK_UP));
        }
        open = open && listen(&mut output, Duration::from_millis(50), &mut lines, &mut say);
        if !open {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let in_time = running.has_exited();
    let status = running.kill();
    // What it had said before it ended; a child of it that got out of the group may hold the pipe, and is not waited for.
    while open && listen(&mut output, Duration::ZERO, &mut lines, &mut say) {
        open = Instant::now() < until + FAREWELL;
    }
    lines.finish(&mut say);
    let said = if last.is_empty() { String::new() } else { format!("; it said: {last}") };
    match status {
        _ if !in_time => Err(format!("killed after {:.1?}{said}", begun.elapsed())),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{status}{said}")),
        None => Err("its end was not seen".into()),
    }
}

/// Reads what is there within a time; false when no more is to be had.
fn listen(output: &mut io::PipeReader, at_most: Duration, lines: &mut Lines, say: &mut impl FnMut(String)) -> bool {
    let wait_for = Timespec { tv_sec: 0, tv_nsec: at_most.subsec_nanos().into() };
    match poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&wait_for)) {
        // Nothing now: that is the end for whoever does not want to wait.
        Ok(0) => return !at_most.is_zero(),
        Err(rustix::io::Errno::INTR) => return true,
        Err(_) => return false,
        Ok(_) => {}
    }
    let mut chunk = [0; 4096];
    match output.read(&mut chunk) {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            lines.push(&chunk[..count], say);
            true
        }
    }
}

/// The event as the program's input: a file in memory, so that a program which does not read it keeps nobody waiting.
fn input(notice: &Notice) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("event", MemfdFlags::CLOEXEC)?);
    serde_json::to_writer(&mut file, notice)?;
    file.write_all(b"\n")?;
    file.rewind()?;
    Ok(file.into())
}

/// The event as variables: FACELATCH_EVENT, FACELATCH_PERSON and so on.
fn variables(notice: &Notice) -> impl Iterator<Item = (String, String)> {
    notice.iter().filter_map(|(key, value)| {
        let text = match value {
            Value::Null => return None,
            // What comes from outside holds no zero byte that would end a variable.
            Value::String(text) => text.replace('\0', ""),
            value => value.to_string(),
        };
        let key = if key == "event_type" { "event" } else { key };
        Some((format!("FACELATCH_{}", key.to_uppercase()), text))
    })
}
