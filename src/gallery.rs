//! The templates of the people known, and the search for the nearest person. No threshold lives here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A person's number in the store. It stays when the person is renamed, and is not given again when the person is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PersonId(pub u32);

impl fmt::Display for PersonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The outcome of a search: the nearest person and the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    pub person: PersonId,
    /// Distance of the probe to that person, 0 to 2.
    pub distance: f32,
    /// The nearest of all other people, if there is one.
    pub runner_up: Option<(PersonId, f32)>,
}
