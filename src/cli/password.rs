//! `facelatch password`: what the configuration holds instead of a password or a token.

use std::io::{self, BufRead, IsTerminal, Write};

use serde_json::json;

use super::{
    CommandError, exit,
    print::{emit, emit_json},
};
use crate::{error::ErrorKind, http::auth};

/// Shorter ones are guessed.
const SHORTEST: usize = 8;

pub(super) fn run(token: bool, as_json: bool) -> Result<u8, CommandError> {
    let failed =
        |error: crate::http::HttpError| CommandError::Answer { problem: error.to_string(), kind: ErrorKind::Internal };
    if token {
        let token = auth::random_token().map_err(failed)?;
        let hash = auth::hash_of_token(&token);
        match as_json {
            true => emit_json(&json!({ "token": token, "hash": hash })),
            false => emit(&format!(
                "The token, for the program; it is shown this once: {token}\n\
                 For the configuration, under [http]; it may do some of metrics, look, enrol, open:\n\
                 tokens = [{{ token = \"{hash}\", may = [\"metrics\"] }}]\n"
            )),
        };
        return Ok(exit::DONE);
    }
    let password = read_password().map_err(CommandError::Usage)?;
    let hash = auth::hash_of_password(&password).map_err(failed)?;
    match as_json {
        true => emit_json(&json!({ "password": hash })),
        false => emit(&format!("password = \"{hash}\"\n")),
    };
    Ok(exit::DONE)
}

fn read_password() -> Result<String, String> {
    let password = if io::stdin().is_terminal() {
        let (first, second) = (prompt("Password: ")?, prompt("Once more: ")?);
        if first != second {
            return Err("the two are not the same".into());
        }
        first
    } else {
        read_line()?
    };
    if password.chars().count() < SHORTEST {
        return Err(format!("a password needs at least {SHORTEST} characters"));
    }
    Ok(password)
}

fn read_line() -> Result<String, String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|error| format!("the password cannot be read: {error}"))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks on the terminal, which shows nothing of the answer meanwhile.
fn prompt(question: &str) -> Result<String, String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    eprint!("{question}");
    let _ = io::stderr().flush();
    let terminal = io::stdin();
    let before = tcgetattr(&terminal).map_err(|error| format!("the terminal cannot be asked: {error}"))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &silent)
        .map_err(|error| format!("the terminal cannot be silenced: {error}"))?;
    let answer = read_line();
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &before);
    eprintln!();
    answer
}
