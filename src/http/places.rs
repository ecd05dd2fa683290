//! Who is connected. When the page is full a newcomer takes the place of a connection that brought no password or token, so
//! that holding connections shuts out nobody.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::AbortHandle;

use super::guesses::one_user;

/// Connections served at a time, and of one address.
const MOST: usize = 256;
const MOST_OF_ONE: usize = 128;
/// A browser makes no more connections than this; who holds more gives one up first.
const MODEST: usize = 8;

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// No request came yet.
    Silent,
    /// One came that was not admitted.
    Stranger,
    Admitted,
}

struct Seat {
    address: IpAddr,
    state: State,
    connection: Option<AbortHandle>,
}

/// The connections by number: the lowest is the oldest.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Mutex<BTreeMap<u64, Seat>>>);

/// One connection's place; dropping it frees the place.
pub(super) struct Place {
    places: Places,
    number: u64,
}

impl Places {
    /// None: all places, or all of this address, are taken by who may ask.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let mut seats = self.lock();
        let address = one_user(address);
        let of = |address: IpAddr| seats.values().filter(|seat| seat.address == address).count();
        let too_many = of(address) >= MOST_OF_ONE;
        if too_many || seats.len() >= MOST {
            let may_go = |seat: &Seat| seat.state != State::Admitted && (!too_many || seat.address == address);
            let mut leaves = seats.iter().filter(|(_, seat)| may_go(seat)).map(|(n, seat)| (of(seat.address), *n));
            let first = leaves.next()?;
            let (_, number) = leaves.fold(first, |a, b| if b.0.max(MODEST) > a.0.max(MODEST) { b } else { a });
            if let Some(connection) = seats.remove(&number).and_then(|seat| seat.connection) {
                connection.abort();
            }
        }
        let number = seats.last_key_value().map_or(0, |(last, _)| last + 1);
        seats.insert(number, Seat { address, state: State::Silent, connection: None });
        Some(Place { places: self.clone(), number })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Seat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// What is ended when somebody else needs the place.
    pub(super) fn belongs_to(&self, connection: AbortHandle) {
        self.with(|seat| seat.connection = Some(connection));
    }

    pub(super) fn asked(&self) {
        self.with(|seat| seat.state = if seat.state == State::Silent { State::Stranger } else { seat.state });
    }

    pub(super) fn admitted(&self) {
        self.with(|seat| seat.state = State::Admitted);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.with(|seat| seat.state == State::Silent).unwrap_or(true)
    }

    fn with<T>(&self, what: impl FnOnce(&mut Seat) -> T) -> Option<T> {
        self.places.lock().get_mut(&self.number).map(what)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn there_is_place_for_so_many_and_for_so_many_of_one() {
        let places = Places::default();
        let admitted = |address| places.take(address).inspect(Place::admitted);
        let mut all: Vec<_> = (0..1000).filter_map(|_| admitted(of(1))).collect();
        assert_eq!(all.len(), MOST_OF_ONE);
        all.extend((0..1000).filter_map(|i| admitted(of(2 + (i % 4) as u8))));
        assert_eq!(all.len(), MOST);
        assert!(places.take(of(9)).is_none(), "who may ask keeps the place");
        all.pop();
        assert!(places.take(of(9)).is_some());
        drop(all);
        assert!(places.lock().is_empty());
    }

    #[test]
    fn strangers_give_up_their_places() {
        let places = Places::default();
        let mut strangers: Vec<_> = (0..1000).filter_map(|i| places.take(of(i as u8 % 2))).collect();
        let visitor = places.take(of(9)).unwrap();
        assert_eq!((visitor.is_silent(), places.lock().len()), (true, MOST));
        visitor.admitted();
        // Those who hold few places go last, those who may ask never.
        let modest = places.take(of(8)).unwrap();
        strangers.extend((0..1000).filter_map(|i| places.take(of(10 + i as u8 % 4))));
        assert!(places.lock().contains_key(&visitor.number) && places.lock().contains_key(&modest.number));
        let neighbour = places.take(of(10)).unwrap();
        neighbour.asked();
        assert!(!neighbour.is_silent());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one() {
        let places = Places::default();
        let all: Vec<_> = (0..200).filter_map(|i| places.take(format!("2001:db8::{i:x}").parse().unwrap())).collect();
        assert_eq!((all.len(), places.lock().len()), (200, MOST_OF_ONE), "each beyond replaced an older one");
    }
}
