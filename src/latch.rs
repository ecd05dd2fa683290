//! The relay's pulse and the LEDs.

use std::time::{Duration, Instant};

/// What the latch is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub enum LatchCommand {
    /// Unlock for `hold`, provided that `captured_at` (the moment of the frame, or of the request, that led to this) is
    /// younger than the limit when the latch gets to it.
    Pulse { hold: Duration, captured_at: Instant },
    /// Lock at once.
    Off,
}
