//! Digital lines. Everything outside this module and the configuration says active and inactive; which level that is, is known here only.

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
#[derive(Debug, thiserror::Error)]
#[error("{line}: {problem}")]
pub struct GpioError {
    pub line: String,
    pub problem: String,
}
