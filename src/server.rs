//! The server: it listens, finds out who is calling, and gives each connection its task.
//!
//! The tasks of the process are: one that accepts for each address; the monitor; one for each connection (detection, then a
//! session's, a client's or an HTTP connection's), which ends with its socket or with the daemon; and short ones
//! for verbs and injections, which have a time limit.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::breakpoints::Store;
use crate::config::{Address, Config};
use crate::detect::{Detected, detect};
use crate::hub::Hub;
use crate::link::Stream;
use crate::owner::{current_uid, owner};
use crate::pump::last_flush;
use crate::session::{self, Caller, Mail};
use crate::wire::Message;
use crate::{agent, client, http, monitor};

/// The most connections at a time; further ones wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 32 * 1024;

/// How many open files are kept for what is no connection: listeners, logs, the questions to the kernel.
const SPARE_FILES: usize = 64;

/// How many connections the kernel keeps for us until they are accepted.
const BACKLOG: u32 = 4096;

/// How long the daemon's tasks may take to end when it stops.
pub const DRAIN: Duration = Duration::from_secs(3);

/// How long to wait after the system has refused to accept, for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The sockets on which the daemon listens.
pub struct Listeners(Vec<Listener>);

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a unix socket; it goes with the socket.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "the socket's file is not removed");
        }
    }
}

impl Listeners {
    /// Listens on all addresses, or on none.
    ///
    /// # Errors
    /// The address that cannot be had, and why.
    pub fn bind(addresses: &[Address]) -> anyhow::Result<Listeners> {
        let bound = addresses.iter().map(|address| {
            Listener::bind(address).with_context(|| format!("cannot listen on {address}"))
        });
        Ok(Listeners(bound.collect::<Result<_, _>>()?))
    }

    /// Where they can be reached, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let address = |listener: &Listener| match listener {
            Listener::Tcp(listener) => listener
                .local_addr()
                .map(|address| address.to_string())
                .unwrap_or_default(),
            Listener::Unix(_, file) => format!("unix:{}", file.0.display()),
        };
        self.0.iter().map(address).collect()
    }
}

impl Listener {
    fn bind(address: &Address) -> io::Result<Listener> {
        match address {
            Address::Tcp(address) => {
                let socket = if address.is_ipv4() {
                    TcpSocket::new_v4()?
                } else {
                    TcpSocket::new_v6()?
                };
                // A daemon that was just killed leaves connections behind that would bar the port for a minute.
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                Ok(Listener::Tcp(socket.listen(BACKLOG)?))
            }
            Address::Unix(path) => {
                // A socket that nobody listens on was left behind by a daemon that died.
                let is_socket =
                    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
                let refused = std::os::unix::net::UnixStream::connect(path).err();
                if is_socket
                    && refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
                {
                    std::fs::remove_file(path)?;
                }
                let listener = UnixListener::bind(path)?;
                let file = SocketFile(path.clone());
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
                Ok(Listener::Unix(listener, file))
            }
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
            Listener::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// Serves until `stop` is cancelled, then lets every process run on and every client know.
///
/// # Errors
/// None yet: a connection's failure is its own.
pub async fn run(
    listeners: Listeners,
    config: Config,
    breakpoints: Store,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let hub = Arc::new(Hub::new(config, breakpoints, listeners.addresses(), stop));
    run_for(hub, listeners).await
}

/// The same for a directory that the caller looks into as well.
///
/// # Errors
/// None yet: a connection's failure is its own.
pub async fn run_for(hub: Arc<Hub>, listeners: Listeners) -> anyhow::Result<()> {
    monitor::start(&hub);
    let room = Arc::new(Semaphore::new(connections()));
    for listener in listeners.0 {
        hub.tasks.spawn(accept(hub.clone(), listener, room.clone()));
    }
    hub.stop.cancelled().await;
    hub.tasks.close();
    if tokio::time::timeout(DRAIN, hub.tasks.wait()).await.is_err() {
        tracing::warn!(
            tasks = hub.tasks.len(),
            "not everything has ended in time; it is cut off"
        );
    }
    Ok(())
}

/// How many connections there is room for: one that cannot be served must not be accepted, because a debug server
/// whose connection is closed without a greeting hangs.
fn connections() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let files = files.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    files.saturating_sub(SPARE_FILES).clamp(1, MAX_CONNECTIONS)
}

async fn accept(hub: Arc<Hub>, listener: Listener, room: Arc<Semaphore>) {
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let place = room.clone().acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
            () = hub.stop.cancelled() => return,
        };
        match accepted {
            (place, Ok(stream)) => {
                let number = hub.next_order();
                let connection = connection(hub.clone(), stream, place);
                hub.tasks
                    .spawn(connection.instrument(tracing::info_span!("connection", number)));
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Messages are small and awaited; and a peer whose machine is gone is noticed in a minute.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

/// A place among the connections that may be open; the semaphore is never closed.
type Place = Result<OwnedSemaphorePermit, AcquireError>;

/// One connection, from its first byte to its last; it keeps its place among those that may be open.
///
/// What it waits for is boxed, because a task is as large as the largest thing that it can become: an idle session
/// would occupy what an HTTP connection needs, and what it took to detect that it is one.
async fn connection(hub: Arc<Hub>, stream: Stream, _place: Place) {
    match admit(&stream) {
        Ok(()) => {}
        // A health check that was quicker than we are.
        Err(_) if has_closed(&stream) => return tracing::debug!("a peer closed without a word"),
        Err(error) => return tracing::warn!(%error, "a connection is refused"),
    }
    if let Stream::Tcp(stream) = &stream
        && let Err(error) = tune(stream)
    {
        tracing::debug!(%error, "a socket cannot be tuned");
    }
    let detected = tokio::select! {
        detected = Box::pin(detect(stream)) => detected,
        () = hub.stop.cancelled() => return,
    };
    match detected {
        Ok(Detected::Client(link, initialize)) => {
            Box::pin(client::run(hub, link, initialize)).await;
        }
        Ok(Detected::Agent(link, seq, caller)) => {
            Box::pin(agent::run(hub, link, seq, caller)).await;
        }
        Ok(Detected::DebugServer(link, caller)) => {
            let newcomer = Box::pin(debug_server(&hub, link, caller)).await;
            if let Some((link, caller)) = newcomer {
                Box::pin(session::run(hub, link, caller)).await;
            }
        }
        Ok(Detected::Http(stream, read)) => {
            let read = io::Cursor::new(read.freeze());
            match stream {
                Stream::Tcp(stream) => {
                    let (reader, writer) = stream.into_split();
                    let stream = tokio::io::join(read.chain(reader), writer);
                    Box::pin(http::serve(hub, stream)).await;
                }
                Stream::Unix(stream) => {
                    let (reader, writer) = stream.into_split();
                    let stream = tokio::io::join(read.chain(reader), writer);
                    Box::pin(http::serve(hub, stream)).await;
                }
            }
        }
        Ok(Detected::Nobody) => tracing::debug!("a peer closed without a word"),
        Err(error) => tracing::debug!(%error, "a connection is of no use, and is closed"),
    }
}

/// Greets a debug server; gives it back if it is a new session, and not a known process that has come back.
async fn debug_server(
    hub: &Hub,
    mut link: crate::link::Link,
    mut caller: Caller,
) -> Option<(crate::link::Link, Caller)> {
    let met = tokio::select! {
        met = session::meet(&mut link, &mut caller) => met,
        () = hub.stop.cancelled() => {
            // The program waits for its greeting, and will get no other.
            link.out.send(&Message::request("configurationDone", json!({})));
            last_flush(&mut link).await;
            return None;
        }
    };
    if let Err(error) = met {
        tracing::debug!(pid = caller.pid, %error, "a process went away while it was greeted");
        return None;
    }
    let Some(known) = hub.session_of(&caller) else {
        return Some((link, caller));
    };
    let mail = Mail::Reconnected(Box::new(link), Box::new(caller));
    match known.inbox.try_send(mail).err()?.into_inner() {
        // The session has just ended, or has no room: the process is a session of its own then.
        Mail::Reconnected(link, caller) => Some((*link, *caller)),
        _ => None,
    }
}

/// Lets in who is the same user: whoever reaches the port can run code in every process that is debugged.
fn admit(stream: &Stream) -> anyhow::Result<()> {
    let uid = match stream {
        Stream::Tcp(stream) => match tcp_uid(stream)? {
            Some(uid) => uid,
            None => return Ok(()),
        },
        Stream::Unix(stream) => unix_uid(stream)?,
    };
    if uid != current_uid() {
        bail!(
            "it belongs to the user with the uid {uid}, and this daemon to {}",
            current_uid()
        );
    }
    Ok(())
}

/// Whether the peer has closed without a word.
fn has_closed(stream: &Stream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let peeked = match stream {
        Stream::Tcp(stream) => recv(stream, &mut [0_u8; 1], flags),
        Stream::Unix(stream) => recv(stream, &mut [0_u8; 1], flags),
    };
    matches!(peeked, Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET))
}

/// The user at the other end, where the system tells.
fn tcp_uid(stream: &TcpStream) -> anyhow::Result<Option<u32>> {
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let uid = owner(stream.local_addr()?, stream.peer_addr()?)?;
    // The kernel knows every open socket of this machine: one that it does not know has closed already.
    Ok(Some(uid.context(
        "its other end is not a socket of this machine, or has closed already",
    )?))
}

fn unix_uid(stream: &UnixStream) -> anyhow::Result<u32> {
    Ok(stream.peer_cred()?.uid())
}
