//! The unix socket through which commands ask the running daemon.
//!
//! A message either way is `[length of the JSON: 4 bytes][length of the picture: 4 bytes][JSON][picture]`, little-endian; only
//! requests that bring a picture have one. A request is answered by one message, one that follows events by a message per
//! event until the client goes away. The socket's permissions (owner and group) are the authorisation; who asks is read from the socket, never from the message.

mod clients;

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use serde::{Serialize, de::DeserializeOwned};

use self::clients::{Client, Clients, Timed, Turn};
use crate::{
    api::{Ask, Backend, Failure, Request, ask},
    error::ErrorKind,
    store::Event,
};

/// Longest JSON of a request and of an answer, and longest picture.
const MOST_REQUEST: u32 = 64 << 10;
const MOST_JSON: u32 = 16 << 20;
const MOST_PICTURE: u32 = 64 << 20;
/// A larger picture waits for its turn.
const LARGE: u32 = 1 << 20;
/// A client that takes longer for its whole request is left ...
const PATIENCE: Duration = Duration::from_secs(10);
/// ... or for a large picture once it is its turn, or for taking an answer.
const LONG_PATIENCE: Duration = Duration::from_secs(15);

/// Why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{path}: no facelatch is running there; start it (systemctl start facelatch) or check control.socket")]
    NobodyThere { path: PathBuf },
    #[error("{path}: no permission; be a member of the group facelatch")]
    NoPermission { path: PathBuf },
    #[error("{path}: another facelatch is listening there already; stop it first (systemctl stop facelatch)")]
    Taken { path: PathBuf },
    #[error("{path}: facelatch hung up: it ends, or has too many commands to answer; try again")]
    HungUp { path: PathBuf },
    #[error("{path}: {source}; check control.socket and the permissions of its folder")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: the answer cannot be understood ({problem}); are command and daemon of the same version?")]
    Protocol { path: PathBuf, problem: String },
    /// The answer itself.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl ControlError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ControlError::NobodyThere { .. } | ControlError::Taken { .. } | ControlError::HungUp { .. } => {
                ErrorKind::Unavailable
            }
            ControlError::NoPermission { .. } => ErrorKind::Denied,
            ControlError::Io { source, .. } => ErrorKind::of_io(source),
            ControlError::Protocol { .. } => ErrorKind::Internal,
            ControlError::Failed(failure) => failure.kind,
        }
    }
}

/// The listening daemon's end. Dropping it removes the socket, if the path still holds this one.
pub struct ControlServer {
    path: PathBuf,
    /// The socket's device and inode, as the path held it.
    socket: (u64, u64),
    stop: Arc<AtomicBool>,
    /// Closing it wakes the thread; connecting to the path might reach another process.
    wake: Option<UnixStream>,
    clients: Clients,
    thread: Option<JoinHandle<UnixListener>>,
}

impl ControlServer {
    /// Listens at `path` (0660). A socket that nobody answers at is left over and replaced.
    ///
    /// # Errors
    /// Another process answers at it, or it cannot be made.
    pub fn start(path: &Path, service: Arc<dyn Backend>) -> Result<ControlServer, ControlError> {
        let io_error = |source| ControlError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(io_error)?;
        }
        if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
            if is_answered(path).map_err(io_error)? {
                return Err(ControlError::Taken { path: path.to_owned() });
            }
            fs::remove_file(path).map_err(io_error)?;
        }
        let listener = UnixListener::bind(path).map_err(io_error)?;
        listener.set_nonblocking(true).map_err(io_error)?;
        let socket = place_of(path).map_err(io_error)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(io_error)?;
        let (wake, woken) = UnixStream::pair().map_err(io_error)?;
        let (stop, clients) = (Arc::new(AtomicBool::new(false)), Clients::default());
        let door = Entrance { listener, woken, service, stop: Arc::clone(&stop), clients: clients.clone() };
        let thread = thread::Builder::new().name("control".into()).spawn(move || door.listen()).map_err(io_error)?;
        Ok(ControlServer { path: path.to_owned(), socket, stop, wake: Some(wake), clients, thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.wake.take());
        let listener = self.thread.take().map(JoinHandle::join);
        // While the listener is open no other file has its inode.
        if place_of(&self.path).is_ok_and(|place| place == self.socket) {
            let _ = fs::remove_file(&self.path);
        }
        drop(listener);
        self.clients.close();
    }
}

/// Device and inode of what a path holds.
fn place_of(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Whether a process listens there. One that accepts nothing is not waited for.
fn is_answered(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the listening thread has.
struct Entrance {
    listener: UnixListener,
    woken: UnixStream,
    service: Arc<dyn Backend>,
    stop: Arc<AtomicBool>,
    clients: Clients,
}

impl Entrance {
    /// Until it is told to stop; the listener is given back open.
    fn listen(self) -> UnixListener {
        while !self.stop.load(Ordering::Relaxed) {
            let mut awaited = [&self.listener as &dyn AsFd, &self.woken]
                .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN));
            let polled = poll(&mut awaited, None);
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && polled.is_ok() => {}
                // Out of file handles, or interrupted.
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
        self.listener
    }

    fn admit(&self, mut stream: UnixStream) {
        let uid = rustix::net::sockopt::socket_peercred(&stream).map_or(u32::MAX, |peer| peer.uid.as_raw());
        let Ok(Some(client)) = self.clients.take(uid, &stream) else {
            let problem = "too many commands of yours are running; end some (facelatch events --follow)";
            let _ = stream.set_nonblocking(true);
            let _ = send(&mut stream, &failed(ErrorKind::Unavailable, problem), &[]);
            return;
        };
        let (service, stop) = (Arc::clone(&self.service), Arc::clone(&self.stop));
        // No thread: the client finds the connection closed. A client that went away is not there to hear of it.
        let _ = thread::Builder::new().name("client".into()).spawn(move || {
            let _ = serve(&stream, &client, service.as_ref(), &stop);
        });
    }
}

/// An answer to any question.
fn failed(kind: ErrorKind, problem: impl Into<String>) -> Result<(), Failure> {
    Err(Failure::new(kind, problem))
}

fn serve(stream: &UnixStream, client: &Client, service: &dyn Backend, stop: &AtomicBool) -> io::Result<()> {
    let answer = |json: &[u8]| send_bytes(&mut Timed::new(stream, LONG_PATIENCE), json, &[]);
    let (request, turn) = match receive_request(stream, client) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let problem = format!("the request cannot be understood: {error}");
            return answer(&serde_json::to_vec(&failed(ErrorKind::Invalid, problem))?);
        }
        Err(error) => return Err(error),
    };
    client.asked();
    let follow = matches!(request, Request::Events(ask::Events { follow: true, .. }));
    let events = follow.then(|| service.follow());
    let answered = request.answered(service, &name_of(client.uid()))?;
    drop(turn);
    answer(&answered)?;
    let Some(events) = events else { return Ok(()) };
    let tell = |events: Vec<Event>| answer(&serde_json::to_vec(&Ok::<_, Failure>(events))?);
    while !stop.load(Ordering::Relaxed) {
        match events.recv_timeout(Duration::from_millis(500)) {
            Ok(event) => tell(vec![event])?,
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            // An empty message finds out whether the client is still there.
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => tell(vec![])?,
        }
    }
    Ok(())
}

/// The whole request, before a deadline; with a large picture the turn that it holds until it is answered.
fn receive_request(stream: &UnixStream, client: &Client) -> io::Result<(Request, Option<Turn>)> {
    let mut timed = Timed::new(stream, PATIENCE);
    let (json, blob) = receive_lengths(&mut timed, MOST_REQUEST)?;
    let json = read_exactly(&mut timed, json)?;
    let mut request = serde_json::from_slice::<Request>(&json)?;
    let turn = (blob > LARGE).then(|| client.turn()).transpose()?;
    if turn.is_some() {
        timed = Timed::new(stream, LONG_PATIENCE);
    }
    let blob = read_exactly(&mut timed, blob)?;
    if let Some(picture) = request.picture() {
        *picture = blob;
    }
    Ok((request, turn))
}

/// A user by name, if the system's user list has it.
fn name_of(uid: u32) -> String {
    let uid = uid.to_string();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&uid.as_str()));
    named.map_or_else(|| format!("user {uid}"), |fields| fields[0].to_owned())
}

/// A command's end.
pub struct ControlClient {
    path: PathBuf,
    stream: UnixStream,
}

impl ControlClient {
    /// # Errors
    /// Nobody listens there, or the permission is missing.
    pub fn connect(path: &Path) -> Result<ControlClient, ControlError> {
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ControlError::NobodyThere { path: path.to_owned() }
            }
            io::ErrorKind::PermissionDenied => ControlError::NoPermission { path: path.to_owned() },
            _ => ControlError::Io { path: path.to_owned(), source },
        })?;
        Ok(ControlClient { path: path.to_owned(), stream })
    }

    /// Asks and waits for the answer; following events, for the first of the answers.
    ///
    /// # Errors
    /// The daemon's answer, or it went away or is of another version.
    pub fn ask<Q: Ask>(&mut self, question: Q) -> Result<Q::Answer, ControlError> {
        let mut request: Request = question.into();
        let picture = request.picture().map(std::mem::take).unwrap_or_default();
        match send(&mut self.stream, &request, &picture) {
            Ok(()) => self.next_answer::<Q>(),
            // Who is turned away may find the line closed; why was said before.
            Err(source) => self.next_answer::<Q>().map_err(|error| match error {
                ControlError::Failed(failure) => failure.into(),
                _ => self.failed(source),
            }),
        }
    }

    /// The next of the events that are followed, some or none.
    ///
    /// # Errors
    /// As [`ControlClient::ask`].
    pub fn next_events(&mut self) -> Result<Vec<Event>, ControlError> {
        self.next_answer::<ask::Events>()
    }

    fn next_answer<Q: Ask>(&mut self) -> Result<Q::Answer, ControlError> {
        let received = receive::<Result<Q::Answer, Failure>>(&mut self.stream);
        Ok(received.map_err(|error| self.failed(error))?.0?)
    }

    fn failed(&self, source: io::Error) -> ControlError {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData, UnexpectedEof};
        let path = self.path.clone();
        match source.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => ControlError::HungUp { path },
            InvalidData => ControlError::Protocol { path, problem: source.to_string() },
            _ => ControlError::Io { path, source },
        }
    }
}

fn send<T: Serialize>(stream: &mut impl Write, message: &T, blob: &[u8]) -> io::Result<()> {
    send_bytes(stream, &serde_json::to_vec(message)?, blob)
}

fn send_bytes(stream: &mut impl Write, json: &[u8], blob: &[u8]) -> io::Result<()> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut bytes = Vec::with_capacity(8 + json.len() + blob.len());
    bytes.extend_from_slice(&length(json)?.to_le_bytes());
    bytes.extend_from_slice(&length(blob)?.to_le_bytes());
    bytes.extend_from_slice(json);
    bytes.extend_from_slice(blob);
    stream.write_all(&bytes)
}

fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<(T, Vec<u8>)> {
    let (json, blob) = receive_lengths(stream, MOST_JSON)?;
    let json = read_exactly(stream, json)?;
    let blob = read_exactly(stream, blob)?;
    Ok((serde_json::from_slice(&json)?, blob))
}

fn receive_lengths(stream: &mut impl Read, most_json: u32) -> io::Result<(u32, u32)> {
    let mut lengths = [0; 8];
    stream.read_exact(&mut lengths)?;
    let [a, b, c, d, e, f, g, h] = lengths;
    let (json, blob) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    if json > most_json || blob > MOST_PICTURE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    Ok((json, blob))
}

/// Grows with what really comes, so that an announced length alone costs no memory.
fn read_exactly(stream: &mut impl Read, length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(length.into()).read_to_end(&mut bytes)?;
    if bytes.len() == length as usize { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{self, Receiver},
        time::Instant,
    };

    use super::*;
    use crate::{api, store::EventKind};

    /// Answers with what it was asked.
    struct Echo;

    /// Questions that no test asks.
    macro_rules! never_asked {
        ($($answers:ident($question:ident) -> $answer:ty;)*) => {
            $(fn $answers(&self, _: ask::$question, _: &str) -> Result<$answer, Failure> {
                panic!("nobody asks this")
            })*
        };
    }

    impl Backend for Echo {
        fn events(&self, _: ask::Events, _: &str) -> Result<Vec<Event>, Failure> {
            Ok(Vec::new())
        }

        fn enroll(&self, question: ask::Enroll, asker: &str) -> Result<api::Enrolled, Failure> {
            let ask::Enroll { name, picture, .. } = question;
            let face_px = picture.len() as u32;
            Ok(api::Enrolled { name, picture: asker.into(), face_px, advice: Vec::new() })
        }

        fn open(&self, _: ask::Open, _: &str) -> Result<(), Failure> {
            Ok(())
        }

        never_asked! {
            people(People) -> Vec<api::PersonSummary>;
            events_after(EventsAfter) -> Vec<Event>;
            status(Status) -> api::Status;
            identify(Identify) -> Vec<api::IdentifiedFace>;
            calibrate(Calibrate) -> crate::calibrate::Calibration;
            forget_strangers(ForgetStrangers) -> ();
            enroll_face(EnrollFace) -> api::Looked;
            unknown(Unknown) -> Vec<api::UnknownFace>;
            unknown_picture(UnknownPicture) -> Vec<u8>;
            name_unknown(NameUnknown) -> api::Looked;
            forget_unknown(ForgetUnknown) -> ();
            attendance(Attendance) -> crate::attendance::Attendance;
        }

        fn follow(&self) -> Receiver<Event> {
            let (sender, receiver) = mpsc::channel();
            for id in 1..=2 {
                let event = Event {
                    id,
                    at_ms: 0,
                    boot_id: String::new(),
                    since_boot: Duration::ZERO,
                    kind: EventKind::Started,
                };
                sender.send(event).expect("the receiver is here");
            }
            receiver
        }
    }

    fn server() -> (tempfile::TempDir, PathBuf, ControlServer) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let server = ControlServer::start(&path, Arc::new(Echo)).unwrap();
        (dir, path, server)
    }

    /// A client, and the daemon's end of its connection.
    fn both_ends() -> (ControlClient, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let client = ControlClient::connect(&path).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_request_with_a_picture_is_answered() {
        let (_dir, path, _server) = server();
        let question = ask::Enroll { name: "Ada".into(), file_name: "a.jpg".into(), picture: vec![7; 300_000] };
        let answer = ControlClient::connect(&path).unwrap().ask(question).unwrap();
        assert_eq!((answer.name.as_str(), answer.face_px), ("Ada", 300_000));
        let asker = answer.picture;
        assert!(!asker.is_empty() && asker != "unknown", "the asker comes from the socket");
    }

    #[test]
    fn who_is_turned_away_before_asking_hears_why() {
        let (mut client, mut daemon) = both_ends();
        send(&mut daemon, &failed(ErrorKind::Unavailable, "full"), &[]).unwrap();
        drop(daemon);
        let error = client.ask(ask::Open {}).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.kind()), ("full", ErrorKind::Unavailable));
    }

    #[test]
    fn only_owner_and_group_may_ask() {
        let (_dir, path, _server) = server();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[test]
    fn events_are_followed() {
        let (_dir, path, _server) = server();
        let mut client = ControlClient::connect(&path).unwrap();
        client.ask(ask::Events { follow: true, ..ask::Events::default() }).unwrap();
        for expected in 1..=2 {
            assert_eq!(client.next_events().unwrap()[0].id, expected);
        }
    }

    #[test]
    fn a_second_server_is_refused_and_a_left_over_socket_replaced() {
        let (dir, path, server) = server();
        let second = ControlServer::start(&path, Arc::new(Echo)).err().unwrap();
        assert!(matches!(second, ControlError::Taken { .. }));
        drop(server);
        assert!(matches!(ControlClient::connect(&path), Err(ControlError::NobodyThere { .. })));
        drop(UnixListener::bind(dir.path().join("run/control.sock")).unwrap());
        assert!(ControlServer::start(&path, Arc::new(Echo)).is_ok());
    }

    #[test]
    fn a_client_that_says_nothing_does_not_stall_another() {
        let (_dir, path, _server) = server();
        let _idle: Vec<_> = (0..8).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let started = Instant::now();
        assert!(opens(&path));
        assert!(started.elapsed() < PATIENCE / 2);
    }

    /// Announces a picture of this length and sends the beginning of it.
    fn begin(path: &Path, length: u32, picture: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let json = br#"{"ask":"identify"}"#;
        stream.write_all(&[(json.len() as u32).to_le_bytes(), length.to_le_bytes()].concat()).unwrap();
        stream.write_all(json).unwrap();
        let _ = stream.write_all(picture);
        stream
    }

    fn opens(path: &Path) -> bool {
        ControlClient::connect(path).unwrap().ask(ask::Open {}).is_ok()
    }

    #[test]
    fn idle_clients_block_nobody() {
        let (_dir, path, _server) = server();
        let _idle: Vec<_> = (0..50).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let _slow: Vec<_> = (0..50).map(|_| begin(&path, MOST_PICTURE, &[0; 100])).collect();
        let started = Instant::now();
        assert!((0..5).all(|_| opens(&path)));
        assert!(started.elapsed() < PATIENCE / 2, "{:?}", started.elapsed());
    }

    #[test]
    fn a_request_that_trickles_is_left() {
        let (_dir, path, _server) = server();
        let mut stream = begin(&path, 1000, &[]);
        let started = Instant::now();
        while stream.write_all(&[0]).is_ok() {
            assert!(started.elapsed() < PATIENCE * 2, "one byte at a time holds a place");
            thread::sleep(Duration::from_millis(100));
        }
        assert!(started.elapsed() > PATIENCE / 2);
    }

    #[test]
    fn large_pictures_are_taken_in_one_at_a_time() {
        let (_dir, path, _server) = server();
        let first = begin(&path, 63 << 20, &vec![0; 8 << 20]);
        let mut second = begin(&path, 2 << 20, &vec![0; 1 << 20]);
        let begun = Instant::now();
        assert!(second.write_all(&vec![0; 1 << 20]).is_err(), "it has to wait");
        assert!(opens(&path), "who sends none does not wait");
        drop((first, second));
        assert!(begun.elapsed() < PATIENCE);
        let picture = vec![7; 3 << 20];
        let question = ask::Enroll { name: "Ada".into(), file_name: "a.jpg".into(), picture };
        let answer = ControlClient::connect(&path).unwrap().ask(question).unwrap();
        assert_eq!(answer.face_px, 3 << 20);
    }

    #[test]
    fn it_ends_though_another_took_its_path() {
        for another_listens in [true, false] {
            let (_dir, path, server) = server();
            fs::remove_file(&path).unwrap();
            let other = another_listens.then(|| UnixListener::bind(&path).unwrap());
            let (ended, end) = mpsc::channel();
            thread::spawn(move || {
                drop(server);
                ended.send(()).unwrap();
            });
            end.recv_timeout(Duration::from_secs(5)).expect("it ends");
            assert_eq!(path.exists(), other.is_some(), "the other's socket is left alone");
        }
    }

    #[test]
    fn a_socket_whose_listener_accepts_nothing_is_taken() {
        let (_dir, path, server) = server();
        drop(server);
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        // Its queue is full: a further connection would have to wait.
        let _queued = UnixStream::connect(&path).unwrap();
        let begun = Instant::now();
        let second = ControlServer::start(&path, Arc::new(Echo)).err().unwrap();
        assert!(matches!(second, ControlError::Taken { .. }), "{second}");
        assert!(begun.elapsed() < Duration::from_secs(1) && path.exists());
    }

    #[test]
    fn nonsense_is_answered_and_left() {
        let (_dir, path, _server) = server();
        for nonsense in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[4, 0, 0, 0, 0, 0, 0, 0, b'n', b'u', b'l', b'l']] {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(nonsense).unwrap();
            let (answer, _) = receive::<Result<(), Failure>>(&mut stream).unwrap();
            assert_eq!(answer.unwrap_err().kind, ErrorKind::Invalid);
        }
    }

    /// Command and daemon may be of different versions.
    #[test]
    fn an_answer_to_another_question_is_told_as_such() {
        let (mut client, mut daemon) = both_ends();
        send(&mut daemon, &Ok::<_, Failure>("opened"), &[]).unwrap();
        let error = client.ask(ask::Status {}).unwrap_err();
        assert!(error.to_string().contains("of the same version?"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100)) {
            let _ = receive::<Result<(), Failure>>(&mut &bytes[..]);
            let _ = serde_json::from_slice::<Request>(&bytes);
        }
    }
}
