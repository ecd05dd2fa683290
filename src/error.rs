//! What kind of trouble an error is. The commands make an exit code of it, the page an
//! HTTP status.

use std::io;

use serde::{Deserialize, Serialize};

/// Every error of this program is of one of these kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// What was asked for is not there.
    NotFound,
    /// What was asked for was tried, and the answer is no.
    Refused,
    /// What was asked for makes no sense.
    Invalid,
    /// Something needed is absent, in use, or busy: later it may work.
    Unavailable,
    /// Not for this user.
    Denied,
    /// The configuration or the models rule it out.
    Conflict,
    /// A file or device cannot be read or written, or holds nonsense.
    Io,
    /// A fault of this program.
    Internal,
}

impl ErrorKind {
    /// Of what the system says about a file or device.
    pub fn of_io(error: &io::Error) -> ErrorKind {
        if error.kind() == io::ErrorKind::PermissionDenied { ErrorKind::Denied } else { ErrorKind::Io }
    }
}
