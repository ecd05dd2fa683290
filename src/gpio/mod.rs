//! Digital lines. Everything outside this module and the configuration says active and inactive; which level that is, is known here only.

mod gpiochip;
mod raspberry;
pub mod simulated;

pub use gpiochip::{ChipSummary, LineUse, look_up, survey};

use crate::config::{GpioBackend, LineChoice};

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
        (GpioBackend::Rppal, None) => Err(GpioError {
            line: line.to_string(),
            problem: "rppal knows lines by BCM number only; give a number or another latch.backend".into(),
        }),
        (GpioBackend::Auto, Some(number)) if chip == "auto" && raspberry::usable() => {
            Ok(Box::new(raspberry::RaspberryLine::open(number, active_low)?))
        }
        (GpioBackend::Auto | GpioBackend::Gpiochip, _) => {
            Ok(Box::new(gpiochip::ChipLine::open(chip, line, active_low)?))
        }
    }
}

impl std::fmt::Display for LineChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LineChoice::Number(number) => write!(f, "line {number}"),
            LineChoice::Name(name) => write!(f, "line \"{name}\""),
        }
    }
}
