//! Who may ask: password, sessions, tokens, and patience with wrong ones.
//!
//! With no password configured the page listens on loopback only, and whoever reaches it may do everything; requests then have to name a
//! loopback host, so that no site in a browser can reach it by a name of its own (DNS rebinding). A change needs the session's CSRF
//! token besides the cookie; programs send a bearer token and need neither.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use argon2::{Argon2, PasswordHasher, PasswordVerifier, password_hash::phc::PasswordHash};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{HttpError, guesses::Guesses};
use crate::config::token::{Scope, Token};

pub(super) const COOKIE: &str = "facelatch";
pub(super) const CSRF_HEADER: &str = "x-csrf-token";
/// Somebody who did nothing for this long logs in again.
const SESSION: Duration = Duration::from_secs(24 * 3600);
/// More people than ever look at a door at once.
const MOST_SESSIONS: usize = 64;
/// A secret of 256 bits in hex.
pub fn random_token() -> Result<String, HttpError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| HttpError::Random(error.to_string()))?;
    Ok(hex(&bytes))
}

/// What stands in the configuration for a token.
pub fn hash_of_token(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// What stands in the configuration for a password: argon2id with its recommended cost (19 MiB, twice), as a PHC string.
///
/// # Errors
/// The system has no random numbers.
pub fn hash_of_password(password: &str) -> Result<String, HttpError> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| HttpError::Random(error.to_string()))?;
    let hashed = Argon2::default()
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map(|hash: PasswordHash| hash.to_string());
    hashed.map_err(|error| HttpError::Random(error.to_string()))
}

/// Whether a text can be what [`hash_of_password`] makes.
pub fn is_hash(text: &str) -> bool {
    PasswordHash::new(text).is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// See the module.
pub(super) struct Door {
    /// None: open to whoever reaches it.
    password: Option<String>,
    tokens: Vec<Token>,
    sessions: Mutex<HashMap<String, Session>>,
    /// The CSRF token where there are no sessions.
    open_csrf: String,
    wrong: Mutex<Guesses>,
}

struct Session {
    csrf: String,
    used: Instant,
}

impl Session {
    fn lasts(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < SESSION
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// Nobody is asked who they are.
    Anybody,
    /// Somebody with a session, by its cookie's hash.
    Session(String),
    /// A program with a token, by the token's first digits.
    Token(String),
}

/// What a request brings to say who asks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claims<'a> {
    pub host: Option<&'a str>,
    pub cookie: Option<&'a str>,
    pub bearer: Option<&'a str>,
    pub csrf: Option<&'a str>,
    /// The site a browser says the request comes from.
    pub origin: Option<&'a str>,
    /// How a request shows that a proxy handed it on; see [`super::proxy`].
    pub handed_on: bool,
    /// Whether the request changes something.
    pub changes: bool,
    /// What a program's token has to allow; None: it is enough to be known.
    pub needs: Option<Scope>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Log in first.
    Unknown,
    /// The request may come from another site.
    Forged,
    /// The host named is none of this machine's.
    Host,
    /// It came through a proxy, where nobody is asked for a password.
    HandedOn,
    /// The token is known and does not allow that.
    Scope(Scope),
}

impl Door {
    pub(super) fn new(password: Option<String>, mut tokens: Vec<Token>) -> Result<Door, HttpError> {
        tokens.iter_mut().for_each(|token| token.hash.make_ascii_lowercase());
        let open_csrf = random_token()?;
        Ok(Door { password, tokens, sessions: Mutex::default(), open_csrf, wrong: Mutex::default() })
    }

    pub(super) fn needs_password(&self) -> bool {
        self.password.is_some()
    }

    pub(super) fn admit(&self, claims: Claims<'_>, now: Instant) -> Result<Asker, Refused> {
        if self.password.is_none() {
            return self.admit_anybody(claims);
        }
        if let Some(token) = claims.bearer {
            return self.admit_program(token, claims.needs);
        }
        let key = claims.cookie.map(hash_of_token).ok_or(Refused::Unknown)?;
        let mut sessions = lock(&self.sessions);
        sessions.retain(|_, session| session.lasts(now));
        let session = sessions.get_mut(&key).ok_or(Refused::Unknown)?;
        if claims.changes && !claims.csrf.is_some_and(|csrf| same(csrf, &session.csrf)) {
            return Err(Refused::Forged);
        }
        session.used = now;
        Ok(Asker::Session(key))
    }

    fn admit_anybody(&self, claims: Claims<'_>) -> Result<Asker, Refused> {
        if claims.handed_on {
            return Err(Refused::HandedOn);
        }
        if !claims.host.is_some_and(is_loopback) {
            return Err(Refused::Host);
        }
        let site = claims.origin.and_then(|origin| origin.split_once("://"));
        let elsewhere = site.is_some_and(|(_, host)| !is_loopback(host));
        let unasked = claims.changes && !claims.csrf.is_some_and(|csrf| same(csrf, &self.open_csrf));
        if elsewhere || unasked { Err(Refused::Forged) } else { Ok(Asker::Anybody) }
    }

    fn admit_program(&self, token: &str, needs: Option<Scope>) -> Result<Asker, Refused> {
        let hash = hash_of_token(token);
        let mut known = self.tokens.iter().filter(|known| same(&known.hash, &hash)).peekable();
        known.peek().ok_or(Refused::Unknown)?;
        match needs {
            Some(scope) if !known.any(|token| token.allows(scope)) => Err(Refused::Scope(scope)),
            _ => Ok(Asker::Token(hash.chars().take(8).collect())),
        }
    }

    /// Whether who was admitted would be admitted still: a session ends, a token lasts as long as the page.
    pub(super) fn still_admits(&self, asker: &Asker, now: Instant) -> bool {
        match asker {
            Asker::Anybody | Asker::Token(_) => true,
            Asker::Session(key) => lock(&self.sessions).get(key).is_some_and(|session| session.lasts(now)),
        }
    }

    /// The CSRF token of whoever asks; programs need none.
    pub(super) fn csrf(&self, asker: &Asker) -> Option<String> {
        match asker {
            Asker::Anybody => Some(self.open_csrf.clone()),
            Asker::Session(key) => lock(&self.sessions).get(key).map(|session| session.csrf.clone()),
            Asker::Token(_) => None,
        }
    }

    /// How long this address waits until a password from it is looked at.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        lock(&self.wrong).wait(address, now)
    }

    /// Whether the password is the right one. Takes a tenth of a second and 19 MiB: not for a thread that serves others.
    pub(super) fn is_password(&self, password: &str) -> bool {
        let Some(hash) = self.password.as_deref().and_then(|hash| PasswordHash::new(hash).ok()) else { return false };
        Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
    }

    /// A session for somebody who gave the right password; its cookie.
    pub(super) fn log_in(&self, address: IpAddr, now: Instant) -> Result<String, HttpError> {
        lock(&self.wrong).forgive(address);
        let (cookie, csrf) = (random_token()?, random_token()?);
        let mut sessions = lock(&self.sessions);
        if sessions.len() >= MOST_SESSIONS
            && let Some(oldest) = sessions.iter().min_by_key(|(_, session)| session.used).map(|(key, _)| key.clone())
        {
            sessions.remove(&oldest);
        }
        sessions.insert(hash_of_token(&cookie), Session { csrf, used: now });
        Ok(cookie)
    }

    pub(super) fn log_out(&self, asker: &Asker) {
        if let Asker::Session(key) = asker {
            lock(&self.sessions).remove(key);
        }
    }

    /// Notes a wrong password; a line for the log if one is due.
    pub(super) fn was_wrong(&self, address: IpAddr, now: Instant) -> Option<String> {
        lock(&self.wrong).count(address, now)
    }
}

/// Whether a Host header names this machine as only itself can reach it.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 7));

    fn door() -> (Door, String) {
        let token = random_token().unwrap();
        let password = hash_of_password("correct horse").unwrap();
        (Door::new(Some(password), vec![Token::everything(hash_of_token(&token))]).unwrap(), token)
    }

    #[test]
    fn only_the_right_password_is_the_password() {
        let (door, _) = door();
        assert!(door.is_password("correct horse"));
        for wrong in ["", "correct horse ", "Correct horse"] {
            assert!(!door.is_password(wrong), "{wrong}");
        }
        assert!(!Door::new(Some("$argon2id$nonsense".into()), vec![]).unwrap().is_password(""));
        assert!(is_hash(&hash_of_password("correct horse").unwrap()));
        assert!(!is_hash("password = \"$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA\"") && !is_hash("correct horse"));
    }

    #[test]
    fn a_hash_of_the_reference_program_is_understood() {
        // Made by the reference program from "password" and "somesalt"; what an older version of this program wrote has its form.
        let hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let door = Door::new(Some(hash.into()), vec![]).unwrap();
        assert!(door.is_password("password") && !door.is_password("Password"));
        assert!(hash_of_password("password").unwrap().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    }

    #[test]
    fn a_session_reads_with_its_cookie_and_changes_with_its_csrf_token_only() {
        let (door, _) = door();
        let now = Instant::now();
        assert_eq!(door.admit(Claims::default(), now), Err(Refused::Unknown));
        let cookie = door.log_in(HERE, now).unwrap();
        let claims = Claims { cookie: Some(&cookie), ..Claims::default() };
        let asker = door.admit(claims, now).unwrap();
        let change = Claims { changes: true, ..claims };
        assert_eq!(door.admit(change, now), Err(Refused::Forged));
        let other = door.log_in(HERE, now).unwrap();
        let others = door.admit(Claims { cookie: Some(&other), ..Claims::default() }, now).unwrap();
        let others_csrf = door.csrf(&others).unwrap();
        assert_eq!(door.admit(Claims { csrf: Some(&others_csrf), ..change }, now), Err(Refused::Forged));
        let csrf = door.csrf(&asker).unwrap();
        assert_eq!(door.admit(Claims { csrf: Some(&csrf), ..change }, now), Ok(asker.clone()));
        let forged = "0".repeat(64);
        assert_eq!(door.admit(Claims { cookie: Some(&forged), ..claims }, now), Err(Refused::Unknown));
        assert!(door.still_admits(&asker, now));
        door.log_out(&asker);
        assert_eq!(door.admit(claims, now), Err(Refused::Unknown));
        assert!(!door.still_admits(&asker, now), "what it looks at ends");
    }

    #[test]
    fn a_session_ends_by_itself_and_there_are_never_too_many() {
        let (door, _) = door();
        let now = Instant::now();
        let cookies: Vec<_> =
            (0..MOST_SESSIONS + 5).map(|i| door.log_in(HERE, now + Duration::from_millis(i as u64)).unwrap()).collect();
        let admitted =
            |cookie: &String, at| door.admit(Claims { cookie: Some(cookie), ..Claims::default() }, at).is_ok();
        assert_eq!(cookies.iter().filter(|cookie| admitted(cookie, now)).count(), MOST_SESSIONS);
        let last = door.log_in(HERE, now).unwrap();
        let asker = door.admit(Claims { cookie: Some(&last), ..Claims::default() }, now).unwrap();
        assert!(door.still_admits(&asker, now) && !door.still_admits(&asker, now + SESSION));
        assert!(!admitted(&cookies[MOST_SESSIONS], now + SESSION + Duration::from_secs(1)));
    }

    #[test]
    fn a_program_needs_its_token_only() {
        let (door, token) = door();
        let claims = Claims { bearer: Some(&token), changes: true, ..Claims::default() };
        assert!(matches!(door.admit(claims, Instant::now()), Ok(Asker::Token(_))));
        let hash = hash_of_token(&token);
        for wrong in ["", "0", &hash, &token[1..]] {
            assert_eq!(door.admit(Claims { bearer: Some(wrong), ..claims }, Instant::now()), Err(Refused::Unknown));
        }
    }

    #[test]
    fn a_token_allows_what_its_scopes_say() {
        let token = random_token().unwrap();
        let may = |may: &[Scope]| Token { hash: hash_of_token(&token), may: Some(may.to_vec()) };
        let door = Door::new(Some(hash_of_password("correct horse").unwrap()), vec![may(&[Scope::Metrics])]).unwrap();
        let asks = |needs| door.admit(Claims { bearer: Some(&token), needs, ..Claims::default() }, Instant::now());
        assert!(asks(None).is_ok() && asks(Some(Scope::Metrics)).is_ok());
        for scope in [Scope::Look, Scope::Enrol, Scope::Open] {
            assert_eq!(asks(Some(scope)), Err(Refused::Scope(scope)));
        }
    }

    #[test]
    fn without_a_password_what_a_proxy_hands_on_is_refused() {
        let door = Door::new(None, vec![]).unwrap();
        let csrf = door.csrf(&Asker::Anybody).unwrap();
        let here = Claims { host: Some("127.0.0.1"), csrf: Some(&csrf), changes: true, ..Claims::default() };
        let ask = |claims| door.admit(claims, Instant::now());
        assert_eq!(ask(Claims { handed_on: true, ..here }), Err(Refused::HandedOn));
        assert_eq!(ask(Claims { origin: Some("https://door.example.org"), ..here }), Err(Refused::Forged));
        for origin in [None, Some("null"), Some("http://localhost:8420"), Some("http://[::1]:8420")] {
            assert_eq!(ask(Claims { origin, ..here }), Ok(Asker::Anybody), "{origin:?}");
        }
    }

    #[test]
    fn without_a_password_only_this_machine_is_served_and_no_other_site_changes_anything() {
        let door = Door::new(None, vec![]).unwrap();
        let now = Instant::now();
        for host in ["localhost", "localhost:8420", "127.0.0.1:8420", "[::1]:8420", "[::1]"] {
            assert_eq!(door.admit(Claims { host: Some(host), ..Claims::default() }, now), Ok(Asker::Anybody), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8420",
            "localhost.evil.example",
            "192.168.1.2",
            "",
            "[",
            "127.0.0.1.evil.example:80",
        ] {
            assert_eq!(door.admit(Claims { host: Some(host), ..Claims::default() }, now), Err(Refused::Host), "{host}");
        }
        let change = Claims { host: Some("localhost"), changes: true, ..Claims::default() };
        assert_eq!(door.admit(change, now), Err(Refused::Forged));
        let csrf = door.csrf(&Asker::Anybody).unwrap();
        assert!(door.admit(Claims { csrf: Some(&csrf), ..change }, now).is_ok());
    }
}
