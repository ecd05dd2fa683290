//! Who is connected to the socket. Places are counted for each user, so that no user keeps another waiting; a client that has
//! yet to say what it asks gives its place to the next; one large body is taken in at a time.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Places of one member of the group, and of all members together.
const MOST_OF_MEMBER: usize = 8;
const MOST_OF_MEMBERS: usize = 24;
/// Places of root, and of the daemon's own user, besides the members'.
const MOST_OF_ITS_OWN: usize = 16;
/// Whose turn it is to send a large body does not come for this long: the client is sent away.
const LONGEST_TURN: Duration = Duration::from_secs(60);

struct Seat {
    uid: u32,
    stream: UnixStream,
    /// The request is complete.
    asked: bool,
}

#[derive(Default)]
struct State {
    /// By number: the lowest is the oldest.
    seats: BTreeMap<u64, Seat>,
    next: u64,
    /// Whether a large body is being taken in: of a member, and of root or the daemon's own user.
    large: [bool; 2],
}

#[derive(Clone, Default)]
pub(super) struct Clients(Arc<(Mutex<State>, Condvar)>);

/// A client's place; dropping it frees the place.
pub(super) struct Client {
    clients: Clients,
    number: u64,
    uid: u32,
}

/// The right to take in a large body; dropping it gives it to the next.
pub(super) struct Turn {
    clients: Clients,
    of: usize,
}

/// Root and the daemon's own user never wait for members.
fn is_its_own(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

impl Clients {
    /// None: all places of this user, or of the members, are taken by clients whose requests are complete.
    pub(super) fn take(&self, uid: u32, stream: &UnixStream) -> io::Result<Option<Client>> {
        let stream = stream.try_clone()?;
        let mut state = self.lock();
        let own = is_its_own(uid);
        let of = |uid: u32| state.seats.values().filter(|seat| seat.uid == uid).count();
        let full = of(uid) >= if own { MOST_OF_ITS_OWN } else { MOST_OF_MEMBER };
        let members = state.seats.values().filter(|seat| !is_its_own(seat.uid)).count();
        if full || (!own && members >= MOST_OF_MEMBERS) {
            let may_go = |seat: &Seat| !seat.asked && if full { seat.uid == uid } else { !is_its_own(seat.uid) };
            let leaves = state.seats.iter().filter(|(_, seat)| may_go(seat));
            // The oldest of who holds the most.
            let Some((_, number)) = leaves
                .map(|(number, seat)| (of(seat.uid), *number))
                .max_by_key(|(of, number)| (*of, u64::MAX - number))
            else {
                return Ok(None);
            };
            leave(&mut state, number);
        }
        state.next += 1;
        let number = state.next;
        state.seats.insert(number, Seat { uid, stream, asked: false });
        self.0.1.notify_all();
        Ok(Some(Client { clients: self.clone(), number, uid }))
    }

    /// Sends away who has yet to say what it asks.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        let silent = state.seats.iter().filter(|(_, seat)| !seat.asked).map(|(number, _)| *number);
        silent.collect::<Vec<_>>().into_iter().for_each(|number| leave(&mut state, number));
        self.0.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Its thread finds the connection closed.
fn leave(state: &mut State, number: u64) {
    if let Some(seat) = state.seats.remove(&number) {
        let _ = seat.stream.shutdown(Shutdown::Both);
    }
}

impl Client {
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    pub(super) fn asked(&self) {
        if let Some(seat) = self.clients.lock().seats.get_mut(&self.number) {
            seat.asked = true;
        }
    }

    /// Waits until a large body may be sent.
    ///
    /// # Errors
    /// The place was given to another client, or it takes too long.
    pub(super) fn turn(&self) -> io::Result<Turn> {
        let of = usize::from(is_its_own(self.uid));
        let until = Instant::now() + LONGEST_TURN;
        let mut state = self.clients.lock();
        while state.large[of] {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !state.seats.contains_key(&self.number) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            state = self.clients.0.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.large[of] = true;
        Ok(Turn { clients: self.clients.clone(), of })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.clients.lock().seats.remove(&self.number);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.clients.lock().large[self.of] = false;
        self.clients.0.1.notify_all();
    }
}

/// A connection until a deadline, however the bytes trickle.
pub(super) struct Timed<'a> {
    pub(super) stream: &'a UnixStream,
    pub(super) until: Instant,
}

impl Timed<'_> {
    pub(super) fn new(stream: &UnixStream, patience: Duration) -> Timed<'_> {
        Timed { stream, until: Instant::now() + patience }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(bytes)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place, and the client's end of the connection.
    fn connect(clients: &Clients, uid: u32) -> Option<(Client, UnixStream)> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        clients.take(uid, &ours).unwrap().map(|client| (client, theirs))
    }

    #[test]
    fn no_member_takes_the_places_of_others() {
        let clients = Clients::default();
        let asking = |uid| connect(&clients, uid).inspect(|(client, _)| client.asked());
        let first: Vec<_> = (0..100).filter_map(|_| asking(5001)).collect();
        assert_eq!(first.len(), MOST_OF_MEMBER);
        let second = asking(5002).unwrap();
        let third: Vec<_> = (5003..5100).filter_map(asking).collect();
        assert_eq!(third.len(), MOST_OF_MEMBERS - MOST_OF_MEMBER - 1);
        assert!(asking(5002).is_none(), "all members together");
        let root: Vec<_> = (0..100).filter_map(|_| asking(0)).collect();
        assert_eq!(root.len(), MOST_OF_ITS_OWN, "root waits for no member");
        drop((first, second, third, root));
        assert!(clients.lock().seats.is_empty());
    }

    #[test]
    fn who_has_not_asked_makes_room() {
        let clients = Clients::default();
        let (_asked, mut silent): (Vec<_>, Vec<_>) =
            (0..MOST_OF_MEMBER).filter_map(|_| connect(&clients, 5001)).partition(|(client, _)| {
                let first = client.number == 1;
                first.then(|| client.asked());
                first
            });
        assert!(connect(&clients, 5001).is_some());
        assert_eq!(silent[0].1.read(&mut [0]).unwrap(), 0, "the oldest was sent away");
        clients.close();
        assert_eq!(silent[6].1.read(&mut [0]).unwrap(), 0);
        assert_eq!(clients.lock().seats.len(), 1);
    }

    #[test]
    fn large_bodies_come_one_at_a_time() {
        let clients = Clients::default();
        let [first, second, root] = [5001, 5002, 0].map(|uid| connect(&clients, uid).unwrap());
        let turn = first.0.turn().unwrap();
        let _root = root.0.turn().unwrap();
        let waiting = std::thread::spawn(move || second.0.turn().map(drop));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        drop(turn);
        assert!(waiting.join().unwrap().is_ok());
        let _turn = first.0.turn().unwrap();
        let second = connect(&clients, 5002).unwrap();
        let waiting = std::thread::spawn(move || second.0.turn().map(drop));
        clients.close();
        assert!(waiting.join().unwrap().is_err(), "who is sent away waits no longer");
    }
}
