//! Who may ask: password, sessions, tokens, and patience with wrong ones.
//!
//! With no password configured the page listens on loopback only, and whoever reaches it may do everything; requests then have to name a
//! loopback host, so that no site in a browser can reach it by a name of its own (DNS rebinding). A change needs the session's CSRF
//! token besides the cookie; programs send a bearer token and need neither.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier, password_hash::SaltString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::HttpError;

pub(super) const COOKIE: &str = "facelatch";
pub(super) const CSRF_HEADER: &str = "x-csrf-token";
/// Somebody who did nothing for this long logs in again.
const SESSION: Duration = Duration::from_secs(24 * 3600);
/// More people than ever look at a door at once.
const MOST_SESSIONS: usize = 64;
/// So many wrong passwords are free; each further one doubles the wait ...
const FREE_TRIES: u32 = 3;
/// ... up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Wrong passwords from more addresses than this at a time are counted together.
const MOST_ADDRESSES: usize = 1024;
/// A new line of the log about wrong passwords is written no oftener than this.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

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
    let hashed = SaltString::encode_b64(&salt)
        .and_then(|salt| Argon2::default().hash_password(password.as_bytes(), &salt).map(|hash| hash.to_string()));
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
    tokens: Vec<String>,
    sessions: Mutex<HashMap<String, Session>>,
    /// The CSRF token where there are no sessions.
    open_csrf: String,
    wrong: Mutex<Wrong>,
}

struct Session {
    csrf: String,
    used: Instant,
}

#[derive(Default)]
struct Wrong {
    by_address: HashMap<IpAddr, Tries>,
    told: Option<Instant>,
    untold: u32,
}

#[derive(Clone, Copy)]
struct Tries {
    count: u32,
    again_at: Instant,
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
    /// Whether the request changes something.
    pub changes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Log in first.
    Unknown,
    /// The request may come from another site.
    Forged,
    /// The host named is none of this machine's.
    Host,
}

impl Door {
    pub(super) fn new(password: Option<String>, tokens: Vec<String>) -> Result<Door, HttpError> {
        let tokens = tokens.into_iter().map(|token| token.to_ascii_lowercase()).collect();
        let open_csrf = random_token()?;
        Ok(Door { password, tokens, sessions: Mutex::default(), open_csrf, wrong: Mutex::default() })
    }

    pub(super) fn needs_password(&self) -> bool {
        self.password.is_some()
    }

    pub(super) fn admit(&self, claims: Claims<'_>, now: Instant) -> Result<Asker, Refused> {
        if self.password.is_none() {
            if !claims.host.is_some_and(is_loopback) {
                return Err(Refused::Host);
            }
            let forged = claims.changes && !claims.csrf.is_some_and(|csrf| same(csrf, &self.open_csrf));
            return if forged { Err(Refused::Forged) } else { Ok(Asker::Anybody) };
        }
        if let Some(token) = claims.bearer {
            let hash = hash_of_token(token);
            let known = self.tokens.iter().any(|known| same(known, &hash));
            let program = || Asker::Token(hash.chars().take(8).collect());
            return if known { Ok(program()) } else { Err(Refused::Unknown) };
        }
        let key = claims.cookie.map(hash_of_token).ok_or(Refused::Unknown)?;
        let mut sessions = lock(&self.sessions);
        sessions.retain(|_, session| now.saturating_duration_since(session.used) < SESSION);
        let session = sessions.get_mut(&key).ok_or(Refused::Unknown)?;
        if claims.changes && !claims.csrf.is_some_and(|csrf| same(csrf, &session.csrf)) {
            return Err(Refused::Forged);
        }
        session.used = now;
        Ok(Asker::Session(key))
    }

    /// The CSRF token of whoever asks; programs need none.
    pub(super) fn csrf(&self, asker: &Asker) -> Option<String> {
        match asker {
            Asker::Anybody => Some(self.open_csrf.clone()),
            Asker::Session(key) => lock(&self.sessions).get(key).map(|session| session.csrf.clone()),
            Asker::Token(_) => None,
        }
    }

    /// How long somebody at this address has to wait until a password is looked at again.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let wrong = lock(&self.wrong);
        let tries = wrong.by_address.get(&network(address))?;
        Some(tries.again_at.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    /// Whether the password is the right one. Takes a tenth of a second and 19 MiB: not for a thread that serves others.
    pub(super) fn is_password(&self, password: &str) -> bool {
        let Some(hash) = self.password.as_deref().and_then(|hash| PasswordHash::new(hash).ok()) else { return false };
        Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
    }

    /// A session for somebody who gave the right password; its cookie.
    pub(super) fn log_in(&self, address: IpAddr, now: Instant) -> Result<String, HttpError> {
        lock(&self.wrong).by_address.remove(&network(address));
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
        let mut wrong = lock(&self.wrong);
        let mut key = network(address);
        if wrong.by_address.len() >= MOST_ADDRESSES {
            wrong.by_address.retain(|_, tries| tries.again_at + LONGEST_WAIT > now);
            if wrong.by_address.len() >= MOST_ADDRESSES && !wrong.by_address.contains_key(&key) {
                key = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let tries = wrong.by_address.entry(key).or_insert(Tries { count: 0, again_at: now });
        tries.count = tries.count.saturating_add(1);
        let doublings = tries.count.saturating_sub(FREE_TRIES);
        let wait =
            if doublings == 0 { Duration::ZERO } else { Duration::from_secs(1 << doublings.min(9)).min(LONGEST_WAIT) };
        tries.again_at = now + wait;
        let count = tries.count;
        wrong.untold += 1;
        if wrong.told.is_some_and(|told| now.saturating_duration_since(told) < BETWEEN_LINES) {
            return None;
        }
        let others = wrong.untold - 1;
        (wrong.told, wrong.untold) = (Some(now), 0);
        let more = if others == 0 { String::new() } else { format!("; {others} more since the last line about it") };
        Some(format!("page: wrong password from {address}, {count} in a row, next try in {} s{more}", wait.as_secs()))
    }
}

/// An IPv6 user has a whole network of addresses: it counts as one.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        },
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
        (Door::new(Some(password), vec![hash_of_token(&token)]).unwrap(), token)
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
        door.log_out(&asker);
        assert_eq!(door.admit(claims, now), Err(Refused::Unknown));
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

    #[test]
    fn wrong_passwords_wait_longer_and_longer_each_address_for_itself() {
        let (door, _) = door();
        let now = Instant::now();
        let waits: Vec<u64> = (0..14)
            .map(|_| {
                door.was_wrong(HERE, now);
                door.wait(HERE, now).map_or(0, |wait| wait.as_secs())
            })
            .collect();
        assert_eq!(waits, [0, 0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        let other = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(door.wait(other, now), None);
        assert!(door.wait(HERE, now + LONGEST_WAIT).is_none());
        door.log_in(HERE, now).unwrap();
        assert_eq!(door.wait(HERE, now), None);
    }

    #[test]
    fn a_thousand_wrong_passwords_are_one_line_and_memory_for_some() {
        let (door, _) = door();
        let now = Instant::now();
        let lines = (0..5000u32).filter_map(|i| door.was_wrong(IpAddr::from(i.to_be_bytes()), now)).count();
        assert_eq!(lines, 1);
        let line = door.was_wrong(HERE, now + BETWEEN_LINES).unwrap();
        assert!(line.contains("4999 more"), "{line}");
        assert!(lock(&door.wrong).by_address.len() <= MOST_ADDRESSES + 1);
        let neighbours = ["2001:db8::1", "2001:db8::ffff"].map(|text| network(text.parse().unwrap()));
        assert_eq!(neighbours[0], neighbours[1]);
    }
}
