//! Wrong passwords: each address waits for itself, and each network for all of its addresses.
//!
//! The table is bounded, and filling it resets nobody: a newcomer takes the place of an entry that may try again, and its count
//! (Metwally et al., "Efficient computation of frequent and top-k elements in data streams", 2005). An address that is not
//! in the table may try at once, so that an attacker shuts out no other network.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Wrong passwords of one address that cost no wait; each further one doubles it ...
const FREE: u32 = 3;
/// ... and of all addresses of a network together.
const FREE_OF_NETWORK: u32 = 12;
/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Addresses and networks that are counted.
const MOST: usize = 4096;
/// A wrong password is forgotten this long after the wait it cost.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
/// The log gets at most one line about wrong passwords in this time.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// A prefix and its length in bits.
type Network = (IpAddr, u8);

#[derive(Default)]
pub(super) struct Guesses {
    by_network: HashMap<Network, Tries>,
    told: Option<Instant>,
    untold: u32,
}

#[derive(Clone, Copy)]
struct Tries {
    count: u32,
    again_at: Instant,
}

impl Guesses {
    /// How long this address waits until a password from it is looked at.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let waits = networks(address).into_iter().filter_map(|network| self.by_network.get(&network));
        let longest = waits.map(|tries| tries.again_at.saturating_duration_since(now)).max()?;
        Some(longest).filter(|wait| !wait.is_zero())
    }

    /// The right password came from there. Its network is not forgiven: others may go on guessing in it.
    pub(super) fn forgive(&mut self, address: IpAddr) {
        let [own, _] = networks(address);
        self.by_network.remove(&own);
    }

    /// Counts a wrong password; a line for the log if one is due.
    pub(super) fn count(&mut self, address: IpAddr, now: Instant) -> Option<String> {
        let [own, whole] = networks(address);
        let tries = self.count_one(own, FREE, now);
        // What an address waits for by itself is not its neighbours' fault.
        if tries.count <= FREE {
            self.count_one(whole, FREE_OF_NETWORK, now);
        }
        self.untold += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < BETWEEN_LINES) {
            return None;
        }
        let others = std::mem::take(&mut self.untold) - 1;
        self.told = Some(now);
        let more = if others == 0 { String::new() } else { format!("; {others} more since the last line about it") };
        let (count, wait) = (tries.count, self.wait(address, now).unwrap_or_default().as_secs());
        Some(format!("page: wrong password from {address}, {count} in a row, next try in {wait} s{more}"))
    }

    fn count_one(&mut self, network: Network, free: u32, now: Instant) -> Tries {
        let begin = Tries { count: self.make_room(network, now), again_at: now };
        let tries = self.by_network.entry(network).or_insert(begin);
        tries.count = tries.count.saturating_add(1);
        let wait = match tries.count.saturating_sub(free) {
            0 => Duration::ZERO,
            doublings => Duration::from_secs(1 << doublings.min(9)).min(LONGEST_WAIT),
        };
        tries.again_at = now + wait;
        *tries
    }

    /// The count a newcomer begins with: that of the entry it replaces, if the table is full.
    fn make_room(&mut self, newcomer: Network, now: Instant) -> u32 {
        let old = |tries: &Tries| now.saturating_duration_since(tries.again_at) > FORGOTTEN;
        if self.by_network.get(&newcomer).is_some_and(old) {
            self.by_network.remove(&newcomer);
        }
        if self.by_network.len() < MOST || self.by_network.contains_key(&newcomer) {
            return 0;
        }
        self.by_network.retain(|_, tries| !old(tries));
        if self.by_network.len() < MOST {
            return 0;
        }
        let rank = |tries: &Tries| (tries.again_at > now, tries.count, tries.again_at);
        let least = self.by_network.iter().min_by_key(|(_, tries)| rank(tries));
        let Some((network, count)) = least.map(|(network, tries)| (*network, tries.count)) else { return 0 };
        self.by_network.remove(&network);
        count
    }
}

/// What counts as one user's address, and the network around it: /32 and /24, of IPv6 /64 and /56.
fn networks(address: IpAddr) -> [Network; 2] {
    match one_user(address) {
        IpAddr::V4(v4) => {
            let around = Ipv4Addr::from(u32::from(v4) & (u32::MAX << 8));
            [(v4.into(), 32), (around.into(), 24)]
        }
        IpAddr::V6(v6) => {
            let around = Ipv6Addr::from(u128::from(v6) & (u128::MAX << 72));
            [(v6.into(), 64), (around.into(), 56)]
        }
    }
}

/// An IPv6 user has a whole network of addresses: it counts as one.
pub(super) fn one_user(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 7));

    fn v4(number: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    fn v6(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn wait(guesses: &Guesses, address: IpAddr, now: Instant) -> u64 {
        guesses.wait(address, now).map_or(0, |wait| wait.as_secs())
    }

    #[test]
    fn wrong_passwords_wait_longer_and_longer() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        let waits: Vec<u64> = (0..14)
            .map(|_| {
                guesses.count(HERE, now);
                wait(&guesses, HERE, now)
            })
            .collect();
        assert_eq!(waits, [0, 0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(guesses.wait(HERE, now + LONGEST_WAIT), None);
        let neighbour = IpAddr::from([192, 168, 1, 8]);
        assert_eq!(guesses.wait(neighbour, now), None, "one address alone shuts out no neighbour");
        guesses.forgive(HERE);
        assert_eq!(guesses.wait(HERE, now), None);
    }

    #[test]
    fn the_addresses_of_a_network_wait_together() {
        let now = Instant::now();
        for of in [
            |i: u32| v4(i % 256),
            |i: u32| v6(&format!("2001:db8:0:12{:02x}::{i:x}", i % 256)),
            |i: u32| v6(&format!("::ffff:10.0.0.{}", i % 256)),
        ] {
            let mut guesses = Guesses::default();
            let looked_at = (0..1000).filter(|i| {
                let free = guesses.wait(of(*i), now).is_none();
                if free {
                    guesses.count(of(*i), now);
                }
                free
            });
            assert_eq!(looked_at.count(), 13);
            assert!(guesses.wait(of(1001), now).is_some(), "nor is a new address of it looked at");
            assert_eq!(guesses.wait(HERE, now), None);
            assert_eq!(guesses.wait(v6("2001:db8:0:1300::1"), now), None, "another network");
        }
    }

    #[test]
    fn no_number_of_addresses_resets_a_wait() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        for _ in 0..20 {
            guesses.count(HERE, now);
        }
        for i in 0..10_000 {
            guesses.count(v4(i * 256), now + Duration::from_millis(u64::from(i)));
        }
        let later = now + Duration::from_secs(100);
        assert_eq!(wait(&guesses, HERE, later), 200);
        assert!(guesses.by_network.len() <= MOST);
        // Who comes back after being replaced is not new.
        assert_eq!(guesses.wait(v4(7 * 256), later), None);
        guesses.count(v4(7 * 256), later);
        assert!(guesses.wait(v4(7 * 256), later).is_some(), "one try, no three free ones");
        assert_eq!(guesses.wait(v6("2001:db8::1"), later), None, "nobody else is shut out");
    }

    #[test]
    fn a_wrong_password_is_forgotten_after_a_day() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        for _ in 0..20 {
            guesses.count(HERE, now);
        }
        let next_day = now + LONGEST_WAIT + FORGOTTEN + Duration::from_secs(1);
        guesses.count(HERE, next_day);
        assert_eq!(guesses.wait(HERE, next_day), None);
    }

    #[test]
    fn a_thousand_wrong_passwords_are_one_line() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        assert_eq!((0..5000).filter_map(|i| guesses.count(v4(i), now)).count(), 1);
        let line = guesses.count(HERE, now + BETWEEN_LINES).unwrap();
        assert!(line.contains("4999 more"), "{line}");
    }
}
