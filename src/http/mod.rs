//! The live page and its JSON API, for whoever wants to see what the door sees.
//!
//! All of it runs on threads of its own and takes from the door only what that gives without waiting ([`crate::live`], the store's
//! events): a slow, hostile or absent reader changes nothing there. What the page can do goes through the same [`Service`] as the
//! commands do.
//!
//! [`Service`]: crate::control::Service

mod api;
pub mod auth;
pub mod certificate;
mod metrics;
mod stream;

use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime,
    sync::oneshot,
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{
    config::{HttpConfig, secret::with_credentials},
    live::give_way,
    service::Services,
};

/// Connections served at a time, and of one address: more are closed at once.
const MOST_CONNECTIONS: usize = 256;
const MOST_OF_ONE: usize = 128;
/// A client that takes longer for a request's head, or for shaking hands, is left.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// A client that takes nothing for this long is left.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// What is kept for a slow reader, by this program and by the kernel, in bytes.
const BUFFER: usize = 64 << 10;
const KERNEL_BUFFER: u32 = 128 << 10;
/// A port that is taken, or an address that is not there yet, is tried again this often.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Threads that wait for disk and nets on behalf of requests.
const WORKERS: usize = 8;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("http.{key}: {path}: {problem}; give a PEM file that the service's user can read")]
    Pem { key: &'static str, path: PathBuf, problem: String },
    #[error("http.certificate: {0}; certificate and key must belong together")]
    Tls(rustls::Error),
    #[error("{0}")]
    Password(String),
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
    #[error("no random numbers: {0}")]
    Random(String),
}

/// The running server. Dropping it closes every connection.
pub struct HttpServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts it, if the configuration asks for it. A port that cannot be had is tried again and again: the door works without.
    ///
    /// # Errors
    /// What can only be mended by hand: certificate, key, password.
    pub fn start(services: &Arc<Services>) -> Result<Option<HttpServer>, HttpError> {
        let config = services.config.http.clone();
        if !config.enabled {
            return Ok(None);
        }
        let tls = tls(&config)?;
        let password = match config.password.as_str() {
            "" => None,
            text => Some(with_credentials(text, "http.password").map_err(HttpError::Password)?),
        };
        if password.as_deref().is_some_and(|hash| !auth::is_hash(hash)) {
            let problem = "http.password: the credential is no hash; it holds what `facelatch password` prints between the quotes";
            return Err(HttpError::Password(problem.into()));
        }
        let door = auth::Door::new(password, config.tokens.clone())?;
        let (encoder, feed) = stream::Encoder::start(services).map_err(HttpError::Thread)?;
        let app = api::router(Arc::clone(services), door, feed, &config);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(WORKERS)
            .thread_name("page worker")
            .build()
            .map_err(HttpError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("page".into())
            .spawn(move || {
                give_way();
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(&config, tls, app) => {}
                        _ = stopped => {}
                    }
                });
                runtime.shutdown_timeout(Duration::from_millis(500));
                drop(encoder);
            })
            .map_err(HttpError::Thread)?;
        Ok(Some(HttpServer { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What speaks TLS with the configured certificate; None without one.
///
/// # Errors
/// Certificate or key cannot be read, or do not belong together.
pub fn tls(config: &HttpConfig) -> Result<Option<TlsAcceptor>, HttpError> {
    if config.certificate.as_os_str().is_empty() {
        return Ok(None);
    }
    let pem = |key, path: &Path, problem: String| HttpError::Pem { key, path: path.to_owned(), problem };
    let read = |key, path: &Path| fs::read(path).map_err(|error| pem(key, path, error.to_string()));
    let certificate = read("certificate", &config.certificate)?;
    let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| pem("certificate", &config.certificate, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&read("key", &config.key)?)
        .map_err(|error| pem("key", &config.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(HttpError::Tls)?;
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

/// Listens; what cannot be had now is said once and tried again.
async fn serve(config: &HttpConfig, tls: Option<TlsAcceptor>, app: axum::Router) {
    let mut told = false;
    let listener = loop {
        match listen(config.listen) {
            Ok(listener) => break listener,
            Err(error) => {
                if !told {
                    log::error!(
                        "page: {} cannot be listened at: {error}; the door works without, trying again",
                        config.listen
                    );
                }
                told = true;
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    log::info!("page: {scheme}://{}/", config.listen);
    if tls.is_none() && !config.proxied && !config.listen.ip().is_loopback() {
        log::warn!("page: without http.certificate the password can be read by others in the network");
    }
    let connections = Connections::default();
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of file handles: the connections there are have to end first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(place) = connections.place(peer.ip()) else { continue };
        let (app, tls) = (app.clone(), tls.clone());
        tokio::spawn(async move {
            // A client that goes away or speaks nonsense: nobody is left to tell.
            let _ = connection(stream, peer, tls, app).await;
            drop(place);
        });
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Connections inherit it.
    socket.set_send_buffer_size(KERNEL_BUFFER)?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    app: axum::Router,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    match tls {
        None => talk(stream, peer, app).await,
        Some(tls) => talk(timeout(HEAD_PATIENCE, tls.accept(stream)).await??, peer, app).await,
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    peer: SocketAddr,
    app: axum::Router,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_PATIENCE));
    let app = app.layer(axum::Extension(api::Peer(peer.ip())));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(app))
        .await?;
    Ok(())
}

/// Who is connected, by address.
#[derive(Clone, Default)]
struct Connections(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place; dropping it frees the place.
struct Place(Connections, IpAddr);

impl Connections {
    fn place(&self, address: IpAddr) -> Option<Place> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = places.values().sum();
        let of_one = places.entry(address).or_default();
        if all >= MOST_CONNECTIONS || *of_one >= MOST_OF_ONE {
            return None;
        }
        *of_one += 1;
        Some(Place(self.clone(), address))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = places.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                places.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_place_for_so_many_and_for_so_many_of_one() {
        let connections = Connections::default();
        let of = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut places: Vec<_> = (0..1000).filter_map(|_| connections.place(of(1))).collect();
        assert_eq!(places.len(), MOST_OF_ONE);
        places.extend((0..1000).filter_map(|i| connections.place(of(2 + (i % 4) as u8))));
        assert_eq!(places.len(), MOST_CONNECTIONS);
        places.pop();
        assert!(connections.place(of(9)).is_some());
        drop(places);
        assert!(connections.0.lock().unwrap().is_empty());
    }
}
