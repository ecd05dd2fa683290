//! Digital lines. Everything outside this module and the configuration says active and inactive; which level that is, is known here only.

mod gpiochip;
mod raspberry;
pub mod simulated;

pub use gpiochip::{ChipSummary, LineUse, look_up, survey};

use crate::{
    config::{GpioBackend, LineChoice},
    error::ErrorKind,
};

/// The logical state of a line, whatever its polarity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineState {
    Active,
    Inactive,
}

/// One line that this process drives.
pub trait OutputLine: Send {
    /// Drives the line.
    ///
    /// # Errors
    /// The level of the line is then unknown: try again.
    fn set(&mut self, state: LineState) -> Result<(), GpioError>;

    /// Backend, chip, line, polarity: one line for people.
    fn describe(&self) -> String;
}

/// Why a line cannot be used. The message names chip, line, what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{line}: {problem}")]
pub struct GpioError {
    pub line: String,
    pub problem: String,
    /// [`ErrorKind::Denied`] or [`ErrorKind::Unavailable`].
    pub kind: ErrorKind,
}

impl GpioError {
    pub(crate) fn unavailable(line: String, problem: impl Into<String>) -> GpioError {
        GpioError { line, problem: problem.into(), kind: ErrorKind::Unavailable }
    }
}

/// Takes a line as an output and drives it inactive. `purpose` (relay, LED ready ...) is for people.
///
/// # Errors
/// No such chip or line, no permission, or somebody else drives it.
pub fn open_output(
    backend: GpioBackend,
    chip: &str,
    line: &LineChoice,
    active_low: bool,
    purpose: &str,
) -> Result<Box<dyn OutputLine>, GpioError> {
    let by_number = match line {
        LineChoice::Number(number) => Some(*number),
        LineChoice::Name(_) => None,
    };
    match (backend, by_number) {
        (GpioBackend::Simulated, _) => Ok(Box::new(simulated::SimulatedLine::new(purpose, line))),
        (GpioBackend::Rppal, Some(number)) => Ok(Box::new(raspberry::RaspberryLine::open(number, active_low)?)),
        (GpioBackend::Rppal, None) => Err(GpioError::unavailable(
            line.to_string(),
            "rppal knows lines by BCM number only; give a number or another latch.backend",
        )),
        (GpioBackend::Auto, Some(number)) if chip == "auto" => {
            let header = gpiochip::has_header();
            open_output(auto_means(header, raspberry::usable), chip, &LineChoice::Number(number), active_low, purpose)
        }
        (GpioBackend::Auto | GpioBackend::Gpiochip, _) => {
            Ok(Box::new(gpiochip::ChipLine::open(chip, line, active_low)?))
        }
    }
}

/// The character device goes first: every board has it, and its kernel keeps others off the line.
/// Registers serve where no chip can be told to be the header's.
fn auto_means(has_header: bool, registers_usable: impl FnOnce() -> bool) -> GpioBackend {
    if !has_header && registers_usable() { GpioBackend::Rppal } else { GpioBackend::Gpiochip }
}

impl std::fmt::Display for LineChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LineChoice::Number(number) => write!(f, "line {number}"),
            LineChoice::Name(name) => write!(f, "line \"{name}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_the_character_device_before_registers() {
        assert_eq!(auto_means(true, || panic!("nobody asks")), GpioBackend::Gpiochip);
        assert_eq!(auto_means(false, || true), GpioBackend::Rppal);
        assert_eq!(auto_means(false, || false), GpioBackend::Gpiochip, "whose error says what is missing");
    }
}
