//! Tokens of programs, and what each may do.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A part of the API.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Counters and times, without names.
    Metrics,
    /// Pictures, people, events, attendance.
    Look,
    /// Enrolling people and unknown visitors, and forgetting the latter.
    #[serde(alias = "enroll")]
    Enrol,
    /// Opening the door.
    Open,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Metrics => "metrics",
            Scope::Look => "look",
            Scope::Enrol => "enrol",
            Scope::Open => "open",
        })
    }
}

/// Written as `{ token = "HASH", may = ["metrics"] }`, or as the hash alone, which allows everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// SHA-256 in hex.
    pub hash: String,
    /// None: everything, as all tokens could before there were scopes.
    pub may: Option<Vec<Scope>>,
}

impl Token {
    /// A token without scopes.
    pub fn everything(hash: String) -> Token {
        Token { hash, may: None }
    }

    pub fn allows(&self, scope: Scope) -> bool {
        self.may.as_ref().is_none_or(|may| may.contains(&scope))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    token: String,
    #[serde(default = "least")]
    may: Vec<Scope>,
}

fn least() -> Vec<Scope> {
    vec![Scope::Metrics]
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrTable;
        impl<'de> Visitor<'de> for TextOrTable {
            type Value = Token;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token such as { token = \"HASH\", may = [\"metrics\"] }")
            }

            fn visit_str<E: Error>(self, hash: &str) -> Result<Token, E> {
                Ok(Token::everything(hash.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Token, A::Error> {
                let Written { token, may } = Written::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Token { hash: token, may: Some(may) })
            }
        }
        deserializer.deserialize_any(TextOrTable)
    }
}
