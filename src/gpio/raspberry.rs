//! Lines of a Raspberry Pi through its registers (rppal), as Raspberry Pi OS allows it to the group gpio.
//!
//! rppal restores a pin's mode when it is dropped; that would let a relay float, so it is told not to. It cannot see
//! whether somebody else drives the same pin.

use rppal::{
    gpio::{Error, Gpio, Level, OutputPin},
    system::DeviceInfo,
};

use super::{GpioError, LineState, OutputLine};
use crate::error::ErrorKind;

/// A pin by BCM number.
pub(super) struct RaspberryLine {
    number: u32,
    active_low: bool,
    pin: OutputPin,
}

/// Whether this is a Raspberry Pi whose registers this process may use.
pub(super) fn usable() -> bool {
    DeviceInfo::new().is_ok() && Gpio::new().is_ok()
}

impl RaspberryLine {
    pub(super) fn open(number: u32, active_low: bool) -> Result<RaspberryLine, GpioError> {
        let line = format!("rppal BCM {number}");
        let fail = |problem: String| GpioError::unavailable(line.clone(), problem);
        let gpio = Gpio::new().map_err(|error| {
            let denied = matches!(error, Error::PermissionDenied(_));
            let kind = if denied { ErrorKind::Denied } else { ErrorKind::Unavailable };
            let problem = format!("{error}; this needs a Raspberry Pi with /dev/gpiomem and membership in the group gpio; or set latch.backend = \"gpiochip\"");
            GpioError { line: line.clone(), problem, kind }
        })?;
        let pin = u8::try_from(number).map_err(|_| fail("there is no such pin; give a BCM number".into()))?;
        let pin = gpio.get(pin).map_err(|error| fail(format!("{error}; give the BCM number of a free pin")))?;
        // The level is set before the pin becomes an output, so that it is never active in between.
        let mut pin = if active_low { pin.into_output_high() } else { pin.into_output_low() };
        pin.set_reset_on_drop(false);
        Ok(RaspberryLine { number, active_low, pin })
    }
}

impl OutputLine for RaspberryLine {
    fn set(&mut self, state: LineState) -> Result<(), GpioError> {
        let high = (state == LineState::Active) != self.active_low;
        self.pin.write(if high { Level::High } else { Level::Low });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("rppal BCM {}, active {}", self.number, if self.active_low { "low" } else { "high" })
    }
}
