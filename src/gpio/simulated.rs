//! A line that exists in the log only; tests read its history and make it fail. One with the name
//! "stuck" cannot be released once it was active: so that an alarm can be tried.

use std::sync::{Arc, Mutex, PoisonError};

use super::{GpioError, LineChoice, LineState, OutputLine};

/// Writes each change to the log.
pub struct SimulatedLine {
    name: String,
    sticks: bool,
    record: Arc<Mutex<Record>>,
}

/// What happened to a simulated line.
#[derive(Debug, Default)]
pub struct Record {
    /// Every state set, in order.
    pub states: Vec<LineState>,
    /// So many of the next calls fail.
    pub failures_to_come: usize,
}

impl SimulatedLine {
    pub fn new(purpose: &str, line: &LineChoice) -> SimulatedLine {
        let sticks = matches!(line, LineChoice::Name(name) if name == "stuck");
        SimulatedLine { name: format!("{purpose} ({line})"), sticks, record: Arc::default() }
    }

    /// The record, shared: it stays readable when the line has been given away.
    pub fn record(&self) -> Arc<Mutex<Record>> {
        Arc::clone(&self.record)
    }
}

impl OutputLine for SimulatedLine {
    fn set(&mut self, state: LineState) -> Result<(), GpioError> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if self.sticks && state == LineState::Inactive && record.states.last() == Some(&LineState::Active) {
            return Err(GpioError::unavailable(self.name.clone(), "it is simulated to be stuck"));
        }
        if record.failures_to_come > 0 {
            record.failures_to_come -= 1;
            return Err(GpioError::unavailable(self.name.clone(), "told to fail"));
        }
        if record.states.last() != Some(&state) {
            log::info!("simulated {} is {}", self.name, if state == LineState::Active { "active" } else { "inactive" });
        }
        record.states.push(state);
        Ok(())
    }

    fn describe(&self) -> String {
        format!("simulated {}: nothing is driven", self.name)
    }
}
