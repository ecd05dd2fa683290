//! A hook that is an address: the event is sent to it with POST, signed if there is a secret.

use std::{
    fmt::Write,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use ureq::{
    Agent,
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{Notice, Stop};
use crate::{
    config::{
        HookConfig,
        secret::{secret, with_credentials},
    },
    outside::pause,
};

/// Attempts in all, and the longest wait between two.
const ATTEMPTS: u32 = 4;
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What an attempt came to.
enum Outcome {
    Done,
    /// It may go better the next time.
    Again(String),
    /// It will not.
    Never(String),
}

/// Sends the event, and again when the address is not there or in trouble.
pub(super) fn tell(config: &HookConfig, mut notice: Notice, name: &str, stop: &Stop) -> Result<(), String> {
    let agent = agent(config)?;
    let url = with_credentials(&config.url, "hooks.url")?;
    let secret = secret(&config.secret, &config.secret_file, "hooks.secret")?;
    let mut failures = 0;
    loop {
        // When it was sent, not only when it happened: so that whoever checks the signature can tell a repetition by somebody else.
        notice.insert("sent_at".into(), now().into());
        let body = serde_json::Value::Object(notice.clone()).to_string();
        match attempt(&agent, &url, &secret, body) {
            Outcome::Done => return Ok(()),
            Outcome::Never(problem) => return Err(problem),
            Outcome::Again(problem) => {
                failures += 1;
                let problem = format!("{problem} (attempt {failures} of {ATTEMPTS})");
                log::debug!("{name}: {problem}");
                if failures == ATTEMPTS || !stop.wait(pause(failures, LONGEST_PAUSE)) {
                    return Err(problem);
                }
            }
        }
    }
}

fn attempt(agent: &Agent, url: &str, secret: &str, body: String) -> Outcome {
    let mut request = agent.post(url).content_type("application/json");
    if !secret.is_empty() {
        request = request.header("X-Facelatch-Signature", format!("sha256={}", signature(secret, &body)));
    }
    match request.send(body) {
        Ok(response) if response.status().is_success() => Outcome::Done,
        Ok(response) if response.status().is_server_error() => {
            Outcome::Again(format!("answered {}", response.status()))
        }
        Ok(response) if response.status().is_redirection() => {
            Outcome::Never(format!("answered {}: it is elsewhere; set hooks.url to its new place", response.status()))
        }
        Ok(response) => Outcome::Never(format!("answered {}", response.status())),
        Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_))) => Outcome::Never(error.to_string()),
        Err(error) => Outcome::Again(error.to_string()),
    }
}

/// HMAC-SHA256 of the body, in hexadecimal digits.
pub(super) fn signature(secret: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length will do");
    mac.update(body.as_bytes());
    mac.finalize().into_bytes().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn now() -> String {
    Timestamp::try_from(SystemTime::now()).map_or_else(|_| String::new(), |now| format!("{now:.3}"))
}

/// No redirections: a signed message goes where it was meant to go. No proxies, and no connection is kept open.
fn agent(config: &HookConfig) -> Result<Agent, String> {
    let mut settings = Agent::config_builder()
        .timeout_global(Some(config.timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_idle_connections(0)
        .proxy(None)
        .user_agent(concat!("facelatch/", env!("CARGO_PKG_VERSION")));
    if config.url.starts_with("https:") {
        settings = settings.tls_config(TlsConfig::builder().root_certs(trusted(&config.ca)?).build());
    }
    Ok(settings.build().into())
}

/// The certificates of a PEM file.
///
/// # Errors
/// It cannot be read, or there is none in it.
pub fn trusted(ca: &Path) -> Result<RootCerts, String> {
    let unusable = |problem: &dyn std::fmt::Display| {
        format!("hooks.ca: {}: {problem}; give the file of those who certify the address", ca.display())
    };
    let pem = fs::read(ca).map_err(|error| unusable(&error))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(unusable(&"there is no certificate in it"));
    }
    Ok(certificates.into())
}
