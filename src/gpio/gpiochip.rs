//! Lines through the kernel's GPIO character device, which every board has (gpiocdev).

use std::{
    io,
    path::{Path, PathBuf},
};

use gpiocdev::{Request, chip::Chip, line::Value};

use super::{GpioError, LineChoice, LineState, OutputLine};
use crate::error::ErrorKind;

const CONSUMER: &str = "facelatch";
/// Labels of the chip whose lines are the 40-pin header, on Raspberry Pi 1 to 3 and Zero, 4, 5.
const HEADER_LABELS: [&str; 4] = ["pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1", "raspberrypi,rp1-gpio"];

/// A requested line. The kernel keeps others from driving it.
pub(super) struct ChipLine {
    chip: PathBuf,
    offset: u32,
    active_low: bool,
    request: Request,
}

/// A chip of this machine, for `facelatch doctor`.
#[derive(Clone, Debug, PartialEq)]
pub struct ChipSummary {
    pub path: PathBuf,
    pub label: String,
    pub lines: u32,
    /// Lines in use: number, and by whom.
    pub used: Vec<(u32, String)>,
}

/// The GPIO chips this process can open.
pub fn survey() -> Vec<ChipSummary> {
    let chips = gpiocdev::chip::chips().unwrap_or_default();
    chips.iter().filter_map(|path| summarize(path)).collect()
}

fn summarize(path: &Path) -> Option<ChipSummary> {
    let chip = Chip::from_path(path).ok()?;
    let info = chip.info().ok()?;
    let used = (0..info.num_lines)
        .filter_map(|offset| chip.line_info(offset).ok())
        .filter(|line| line.used)
        .map(|line| (line.offset, line.consumer))
        .collect();
    Some(ChipSummary { path: path.to_owned(), label: info.label, lines: info.num_lines, used })
}

/// Whether it can be told which chip is the header's.
pub(super) fn has_header() -> bool {
    choose_chip(&survey()).is_ok()
}

/// Where a line is and who drives it, for `facelatch doctor`: the line itself is left alone.
#[derive(Clone, Debug, PartialEq)]
pub struct LineUse {
    pub chip: PathBuf,
    pub offset: u32,
    /// None: nobody drives it.
    pub user: Option<String>,
}

impl LineUse {
    /// Whether a facelatch drives it.
    pub fn is_ours(&self) -> bool {
        self.user.as_deref() == Some(CONSUMER)
    }
}

/// Looks a line up without taking it.
///
/// # Errors
/// There is no such chip or line, or it cannot be told which chip is meant.
pub fn look_up(chip: &str, line: &LineChoice) -> Result<LineUse, GpioError> {
    let (chip, offset) = locate(chip, line)?;
    let asked = Chip::from_path(&chip).and_then(|open| open.line_info(offset));
    let info = asked.map_err(|error| refusal(&chip, offset, &error.to_string(), errno(&error), None))?;
    Ok(LineUse { user: info.used.then_some(info.consumer), chip, offset })
}

fn locate(chip: &str, line: &LineChoice) -> Result<(PathBuf, u32), GpioError> {
    match line {
        LineChoice::Name(name) => {
            let found = gpiocdev::find_named_line(name).ok_or_else(|| {
                GpioError::unavailable(
                    line.to_string(),
                    "no GPIO chip has a line of this name; `facelatch doctor` lists the chips, `gpioinfo` their lines",
                )
            })?;
            Ok((found.chip, found.info.offset))
        }
        LineChoice::Number(offset) if chip == "auto" => Ok((choose_chip(&survey())?, *offset)),
        LineChoice::Number(offset) => Ok((PathBuf::from(chip), *offset)),
    }
}

impl ChipLine {
    pub(super) fn open(chip: &str, line: &LineChoice, active_low: bool) -> Result<ChipLine, GpioError> {
        let (chip, offset) = locate(chip, line)?;
        let mut builder = Request::builder();
        builder.on_chip(&chip).with_consumer(CONSUMER).with_line(offset);
        if active_low {
            builder.as_active_low();
        }
        let request = builder
            .as_output(Value::Inactive)
            .request()
            .map_err(|error| refusal(&chip, offset, &error.to_string(), errno(&error), user_of(&chip, offset)))?;
        Ok(ChipLine { chip, offset, active_low, request })
    }
}

impl OutputLine for ChipLine {
    fn set(&mut self, state: LineState) -> Result<(), GpioError> {
        let value = if state == LineState::Active { Value::Active } else { Value::Inactive };
        self.request
            .set_value(self.offset, value)
            .map(drop)
            .map_err(|error| refusal(&self.chip, self.offset, &error.to_string(), errno(&error), None))
    }

    fn describe(&self) -> String {
        let active = if self.active_low { "low" } else { "high" };
        format!("{} line {}, active {active}", self.chip.display(), self.offset)
    }
}

/// The header's chip, or the only one.
fn choose_chip(chips: &[ChipSummary]) -> Result<PathBuf, GpioError> {
    let header = chips.iter().find(|chip| HEADER_LABELS.contains(&chip.label.as_str()));
    match (header, chips) {
        (Some(chip), _) => Ok(chip.path.clone()),
        (None, [only]) => Ok(only.path.clone()),
        (None, []) => Err(GpioError::unavailable(
            "gpiochip".into(),
            "no GPIO chip can be opened; is this a board with GPIO, and is the user in the group gpio? latch.backend = \"simulated\" goes without",
        )),
        (None, several) => {
            let list: Vec<String> =
                several.iter().map(|chip| format!("{} ({})", chip.path.display(), chip.label)).collect();
            Err(GpioError::unavailable(
                "gpiochip".into(),
                format!("which of these? set latch.chip to one of {}", list.join(", ")),
            ))
        }
    }
}

fn user_of(chip: &Path, offset: u32) -> Option<String> {
    let info = Chip::from_path(chip).ok()?.line_info(offset).ok()?;
    info.used.then_some(info.consumer)
}

/// The system's error number. gpiocdev keeps the type that holds it to itself, but prints it as the standard library does.
fn errno(error: &gpiocdev::Error) -> Option<i32> {
    let text = error.to_string();
    let (_, number) = text.rsplit_once("(os error ")?;
    number.split(')').next()?.parse().ok()
}

/// The kernel's answer in words.
fn refusal(chip: &Path, offset: u32, text: &str, errno: Option<i32>, user: Option<String>) -> GpioError {
    let said = errno.map(|errno| io::Error::from_raw_os_error(errno).kind());
    let problem = match said {
        Some(io::ErrorKind::ResourceBusy) => format!(
            "the line is in use by \"{}\"; stop that program or choose another line (`gpioinfo` shows all)",
            user.unwrap_or_else(|| "another program".into())
        ),
        Some(io::ErrorKind::PermissionDenied) => "no permission; add the user to the group gpio".to_owned(),
        Some(io::ErrorKind::NotFound) => "there is no such chip; `facelatch doctor` lists them".to_owned(),
        Some(io::ErrorKind::InvalidInput) => "the chip has no such line; `gpioinfo` shows what it has".to_owned(),
        _ => text.to_owned(),
    };
    let denied = said == Some(io::ErrorKind::PermissionDenied);
    let kind = if denied { ErrorKind::Denied } else { ErrorKind::Unavailable };
    GpioError { line: format!("{} line {offset}", chip.display()), problem, kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chip(path: &str, label: &str) -> ChipSummary {
        ChipSummary { path: path.into(), label: label.into(), lines: 54, used: Vec::new() }
    }

    #[test]
    fn the_headers_chip_is_chosen_among_several() {
        let chips = [chip("/dev/gpiochip0", "raspberrypi-exp-gpio"), chip("/dev/gpiochip4", "pinctrl-rp1")];
        assert_eq!(choose_chip(&chips).unwrap(), Path::new("/dev/gpiochip4"));
        assert_eq!(choose_chip(&chips[..1]).unwrap(), Path::new("/dev/gpiochip0"), "the only one, whatever it is");
    }

    #[test]
    fn several_unknown_chips_are_listed() {
        let error = choose_chip(&[chip("/dev/gpiochip0", "a"), chip("/dev/gpiochip1", "b")]).unwrap_err().to_string();
        assert!(error.contains("latch.chip") && error.contains("/dev/gpiochip1 (b)"), "{error}");
        assert!(choose_chip(&[]).unwrap_err().to_string().contains("simulated"));
    }

    #[test]
    fn a_line_in_use_is_named_with_its_user() {
        let error = refusal(Path::new("/dev/gpiochip0"), 17, "", Some(16), Some("spi0 CS0".into())).to_string();
        assert!(error.starts_with("/dev/gpiochip0 line 17: the line is in use by \"spi0 CS0\""), "{error}");
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let text = |errno| refusal(Path::new("/dev/gpiochip0"), 99, "?", Some(errno), None).to_string();
        assert!(text(13).contains("group gpio"));
        assert!(text(2).contains("doctor"));
        assert!(text(22).contains("gpioinfo"));
    }

    #[test]
    fn the_systems_error_number_is_found() {
        let busy = gpiocdev::Error::from(io::Error::from_raw_os_error(16));
        assert_eq!(errno(&busy), Some(16));
    }

    #[test]
    fn a_chip_that_is_not_there_is_an_error_of_its_line() {
        let error = ChipLine::open("/dev/gpiochip-none", &LineChoice::Number(3), false).err().unwrap().to_string();
        assert!(error.contains("/dev/gpiochip-none line 3"), "{error}");
    }
}
