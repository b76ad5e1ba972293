//! What `dbgproxy serve` is told to do, once told: addresses and policies, checked.
//!
//! This module knows nothing about where a setting comes from (flags, environment and file are
//! `commands::options`), and opens no socket.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the daemon is, unless somebody says otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:5678";

/// The settings of one daemon. They do not change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to listen; not empty, and each of them has passed [`Address::check`].
    pub listen: Vec<Address>,
    /// Whether a process that connects is held until a client that has it in view is configured.
    pub wait_for_ide: bool,
    /// What becomes of stopped threads when the last client leaves.
    pub on_last_detach: OnLastDetach,
    /// The file that keeps the daemon's own breakpoints over restarts, if they are kept.
    pub state: Option<PathBuf>,
    /// How it is watched what is wrong.
    pub monitoring: Monitoring,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Address::default()],
            wait_for_ide: false,
            on_last_detach: OnLastDetach::default(),
            state: None,
            monitoring: Monitoring::default(),
        }
    }
}

/// How it is watched what is wrong, and from when on something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitoring {
    /// How often processes say how they stand, and how often it is looked; never, if it is none.
    pub interval: Option<Duration>,
    /// How long a lock may be held.
    pub lock_held: Duration,
    /// How long a task may run.
    pub task_long: Duration,
    /// How long an event loop may be blocked.
    pub loop_blocked: Duration,
    /// How long a process may wait for an IDE.
    pub session_waiting: Duration,
    /// The file that is told what is found, if there is one.
    pub log: Option<PathBuf>,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            interval: Some(Duration::from_secs(1)),
            lock_held: Duration::from_secs(30),
            task_long: Duration::from_secs(10),
            loop_blocked: Duration::from_millis(100),
            session_waiting: Duration::from_secs(10),
            log: None,
        }
    }
}

/// A number of seconds, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Seconds(pub Duration);

/// The most seconds that a setting can be: a day.
const MAX_SECONDS: f64 = 86_400.0;

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        let duration = Duration::try_from_secs_f64(seconds).ok();
        let duration = duration.filter(|_| seconds <= MAX_SECONDS);
        let wrong = || format!("expected a number of seconds from 0 to {MAX_SECONDS}");
        duration.map(Seconds).ok_or_else(wrong)
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What is no number is out of range, too.
        Seconds::try_from(text.parse().unwrap_or(f64::NAN))
    }
}

/// What becomes of a process's stopped threads when its last client leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnLastDetach {
    /// They run on.
    #[default]
    Resume,
    /// They stay where they are, for the next client.
    Keep,
}

/// Where a daemon listens: `HOST:PORT` or `unix:PATH`.
///
/// A name is resolved when it is read, to its first IPv4 address if it has one: so `localhost` is
/// 127.0.0.1, where everybody looks first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// A TCP address; port 0 is any free port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// What is wrong with an address, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(String);

impl Address {
    /// Whether the daemon may listen here.
    ///
    /// # Errors
    ///
    /// It is not a loopback address. Whoever reaches the port can run code in every debugged
    /// process, and there are no tokens yet that would keep strangers out.
    pub fn check(&self) -> Result<(), AddressError> {
        match self {
            Address::Tcp(address) if !address.ip().to_canonical().is_loopback() => {
                let port = if address.port() == 0 {
                    5678
                } else {
                    address.port()
                };
                Err(AddressError(format!(
                    "will not listen on {self}: whoever reaches it can run code as you; listen on \
                     127.0.0.1:{port}, and reach that from another machine through \
                     `ssh -L {port}:127.0.0.1:{port} HOST`"
                )))
            }
            Address::Tcp(_) | Address::Unix(_) => Ok(()),
        }
    }
}

impl Default for Address {
    /// [`DEFAULT_ADDRESS`].
    fn default() -> Self {
        Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 5678)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |what: &str, instead: &str| {
            Err(AddressError(format!("`{text}` {what}; write {instead}")))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => wrong("has no path", "`unix:PATH`"),
                // It could not be bound, and in an error it would be cut off.
                path if path.contains('\0') => wrong("has a NUL in its path", "`unix:PATH`"),
                path => Ok(Address::Unix(path.into())),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Address::Tcp(address));
        }
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return wrong("needs brackets and a port", "`[::1]:5678`");
        }
        let (host, port) = match text.rsplit_once(':') {
            // A closing bracket is the end of an IPv6 address.
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ if is_number(text) => return wrong("has no host", &format!("`127.0.0.1:{text}`")),
            _ => return wrong("has no port", &format!("`{}:5678`", or_default(text))),
        };
        let Ok(port) = port.parse::<u16>() else {
            let what = if port.is_empty() {
                "has no port"
            } else {
                "has no port from 0 to 65535"
            };
            return wrong(what, &format!("`{}:5678`", or_default(host)));
        };
        if host.is_empty() || host == "*" {
            return wrong("has no host", &format!("`127.0.0.1:{port}`"));
        }
        if host.contains([':', '/', '[', ']']) {
            return wrong(
                "is no address",
                "`127.0.0.1:5678`, `[::1]:5678` or `unix:PATH`",
            );
        }
        resolve(host, port).map(Address::Tcp).map_err(|error| {
            AddressError(format!("cannot find out the address of `{host}`: {error}"))
        })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The host to show in an example.
fn or_default(host: &str) -> &str {
    if host.is_empty() { "127.0.0.1" } else { host }
}

fn resolve(host: &str, port: u16) -> std::io::Result<SocketAddr> {
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let best = found
        .iter()
        .find(|address| address.is_ipv4())
        .or(found.first());
    best.copied()
        .ok_or_else(|| std::io::Error::other("the name has no address"))
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Address {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("127.0.0.1:5678", "127.0.0.1:5678"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:5678", "[::1]:5678"),
            ("localhost:5678", "127.0.0.1:5678"),
            (
                "unix:/run/user/0/dbgproxy.sock",
                "unix:/run/user/0/dbgproxy.sock",
            ),
            ("unix:dbgproxy.sock", "unix:dbgproxy.sock"),
            ("0.0.0.0:5678", "0.0.0.0:5678"),
        ] {
            assert_eq!(parse(text).to_string(), shown);
            assert_eq!(parse(shown), parse(text));
        }
        assert_eq!(Address::default(), parse(DEFAULT_ADDRESS));
    }

    #[test]
    fn what_is_no_address_says_what_to_write() {
        for (text, hint) in [
            ("5678", "`127.0.0.1:5678`"),
            (":5679", "`127.0.0.1:5679`"),
            ("*:5679", "`127.0.0.1:5679`"),
            ("", "`127.0.0.1:5678`"),
            (":", "`127.0.0.1:5678`"),
            ("localhost", "`localhost:5678`"),
            ("localhost:", "`localhost:5678`"),
            ("localhost:x", "`localhost:5678`"),
            ("127.0.0.1:65536", "0 to 65535"),
            ("127.0.0.1:-1", "0 to 65535"),
            ("::1", "`[::1]:5678`"),
            ("[::1]", "`[::1]:5678`"),
            ("unix:", "`unix:PATH`"),
            ("tcp://127.0.0.1:5678", "`127.0.0.1:5678`"),
            ("/run/dbgproxy.sock:1", "`unix:PATH`"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(hint), "{text}: {error}");
            assert!(!error.contains('\n') && !error.ends_with('.'), "{error}");
        }
    }

    #[test]
    fn only_this_machine_may_connect() {
        for text in [
            "127.0.0.1:1",
            "127.8.8.8:1",
            "[::1]:0",
            "[::ffff:127.0.0.1]:1",
            "unix:x",
        ] {
            assert_eq!(parse(text).check(), Ok(()), "{text}");
        }
        for text in [
            "0.0.0.0:5679",
            "[::]:5679",
            "192.168.0.7:5679",
            "[::ffff:10.0.0.1]:5679",
        ] {
            let error = parse(text).check().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            assert!(error.contains("ssh -L 5679:127.0.0.1:5679"), "{error}");
        }
    }
}
