//! Asking a daemon: one verb, POSTed to its address, TCP or unix socket, with a time limit.
//!
//! Knows nothing about what is asked; an answer is the body, and an error is told apart by what the
//! user can do about it.

use std::io;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Failure;
use crate::config::Address;

/// How long a daemon may take for a whole answer, beyond what it was told it may; then the command has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a daemon is asked that answers as none does.
const ATTEMPTS: usize = 3;

/// The largest answer that is taken, in bytes; a larger one is an error.
const MAX_BODY: usize = 64 << 20;

/// Where the daemon is, as every command takes it that talks to one.
#[derive(Clone, Debug, clap::Args)]
pub struct Daemon {
    /// The daemon's address: HOST:PORT or unix:PATH
    #[arg(
        long = "connect",
        value_name = "ADDR",
        env = "DBGPROXY",
        hide_env_values = true,
        default_value = crate::config::DEFAULT_ADDRESS
    )]
    pub address: Address,
}

impl Daemon {
    /// What the daemon answers to a verb, as it came and as JSON; it may take `patience` and some time for itself.
    pub(super) async fn call(
        &self,
        verb: &str,
        arguments: &Value,
        patience: Duration,
    ) -> Result<(String, Value), Failure> {
        let patience = PATIENCE + patience;
        let (verb, arguments) = (format!("/api/v1/{verb}"), arguments.to_string());
        // A daemon that heard nothing for 25 ms asks whether we are a debug server: on a machine that busy, again.
        let mut attempts = 1;
        let body = loop {
            match self.post(&verb, &arguments, patience).await {
                Err(Failure::NoDaemon(why))
                    if attempts < ATTEMPTS && why == self.something_else() => {}
                Err(Failure::Failed(why))
                    if attempts < ATTEMPTS && why.to_string() == self.closed() => {}
                result => break result?,
            }
            attempts += 1;
        };
        match serde_json::from_str(&body) {
            Ok(answer) => Ok((body, answer)),
            Err(_) => Err(self.not_dbgproxy()),
        }
    }

    async fn post(&self, path: &str, body: &str, patience: Duration) -> Result<String, Failure> {
        match &self.address {
            Address::Tcp(address) => {
                let stream = timeout(PATIENCE, TcpStream::connect(address))
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                    .map_err(|error| self.cannot_connect(&error))?;
                let host = address.to_string();
                timeout(patience, self.exchange(stream, &host, path, body)).await
            }
            #[cfg(unix)]
            Address::Unix(socket) => {
                let stream = tokio::net::UnixStream::connect(socket)
                    .await
                    .map_err(|error| self.cannot_connect(&error))?;
                timeout(patience, self.exchange(stream, "localhost", path, body)).await
            }
            #[cfg(not(unix))]
            Address::Unix(_) => {
                return Err(self.cannot_connect(&io::ErrorKind::Unsupported.into()));
            }
        }
        .unwrap_or_else(|_| {
            Err(Failure::Failed(anyhow!(
                "{} took the request and did not answer within {} s; if it is dbgproxy, its log \
                 may say why",
                self.address,
                patience.as_secs()
            )))
        })
    }

    async fn exchange<S>(
        &self,
        stream: S,
        host: &str,
        path: &str,
        body: &str,
    ) -> Result<String, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let request = Request::post(path)
            .header(HOST, host)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::<Bytes>::from(body.to_owned()))
            .map_err(anyhow::Error::new)?;
        let broken = |error: hyper::Error| self.broken(error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Ends when the sender is dropped; what goes wrong on it is told by the request, too.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body
            .map_err(|error| anyhow!(error).context("the answer broke off"))?
            .to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() {
            return Ok(body);
        }
        // A daemon gives a reason with every refusal.
        match serde_json::from_str::<Refusal>(&body) {
            Ok(refusal) => Err(Failure::Failed(anyhow!(refusal.error.message))),
            Err(_) => Err(self.not_dbgproxy()),
        }
    }

    fn cannot_connect(&self, error: &io::Error) -> Failure {
        let address = &self.address;
        if error.kind() == io::ErrorKind::PermissionDenied {
            return Failure::Failed(anyhow!("{address} may not be used by this user: {error}"));
        }
        let listen = if *address == Address::default() {
            String::new()
        } else {
            format!(" --listen {address}")
        };
        Failure::NoDaemon(format!(
            "no daemon at {address}: {error}\n  start one with `dbgproxy serve{listen}`, or say where it \
             is with --connect ADDR"
        ))
    }

    /// Something is there, but the conversation with it went wrong.
    fn broken(&self, error: hyper::Error) -> Failure {
        let address = &self.address;
        if error.is_parse() {
            return self.not_dbgproxy();
        }
        if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            return Failure::Failed(anyhow!(self.closed()));
        }
        Failure::Failed(anyhow::Error::new(error).context(format!("cannot ask {address}")))
    }

    fn closed(&self) -> String {
        format!(
            "{} closed the connection without an answer; is it dbgproxy, and is it yours?",
            self.address
        )
    }

    /// Something answers, and it cannot be a daemon of ours.
    pub(super) fn not_dbgproxy(&self) -> Failure {
        Failure::NoDaemon(self.something_else())
    }

    fn something_else(&self) -> String {
        format!(
            "no daemon at {0}: something else answers there\n  start one on another address with \
             `dbgproxy serve --listen ADDR`, or say where it is with --connect ADDR",
            self.address
        )
    }
}

/// The contract's error.
#[derive(Deserialize)]
struct Refusal {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    message: String,
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// A daemon that says `answer` to all who ask, and what the first of them asked.
    pub(in crate::commands) async fn scripted(answer: String) -> (Daemon, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let asked = say(stream, answer.clone()).await;
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    say(stream, answer.clone()).await;
                }
            });
            asked
        });
        (Daemon { address }, asked)
    }

    /// Reads a request, answers, closes.
    async fn say<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: String) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.lines().next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        request.extend(body);
        String::from_utf8(request).unwrap()
    }

    pub(in crate::commands) fn answer(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    async fn info(daemon: &Daemon) -> Result<(String, Value), Failure> {
        daemon.call("info", &json!({}), Duration::ZERO).await
    }

    #[tokio::test]
    async fn the_body_comes_back() {
        let (daemon, asked) = scripted(answer("200 OK", "{}")).await;
        let (body, value) = info(&daemon).await.unwrap();
        assert_eq!((&*body, value), ("{}", json!({})));
        let asked = asked.await.unwrap().to_ascii_lowercase();
        assert!(
            asked.starts_with("post /api/v1/info http/1.1\r\n"),
            "{asked}"
        );
        assert!(
            asked.contains("content-type: application/json\r\n"),
            "{asked}"
        );
        assert!(
            asked.contains(&format!("host: {}\r\n", daemon.address)),
            "{asked}"
        );
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn over_a_unix_socket() {
        let directory = tempfile::tempdir().unwrap();
        let daemon = Daemon {
            address: Address::Unix(directory.path().join("x.sock")),
        };
        assert!(matches!(info(&daemon).await, Err(Failure::NoDaemon(_))));

        let listener = tokio::net::UnixListener::bind(directory.path().join("x.sock")).unwrap();
        let asked = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            say(stream, answer("200 OK", "{}")).await
        });
        assert_eq!(info(&daemon).await.unwrap().0, "{}");
        let asked = asked.await.unwrap().to_ascii_lowercase();
        assert!(asked.contains("host: localhost\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn a_refusal_is_its_message() {
        let body = r#"{"error":{"code":"bad-request","message":"no such thing"}}"#;
        let (daemon, _asked) = scripted(answer("400 Bad Request", body)).await;
        match info(&daemon).await {
            Err(Failure::Failed(error)) => assert_eq!(error.to_string(), "no such thing"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn nobody_and_somebody_else_are_no_daemon() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        drop(listener);
        let nobody = Daemon {
            address: address.clone(),
        };
        match info(&nobody).await {
            Err(Failure::NoDaemon(message)) => {
                assert!(
                    message.contains(&format!("dbgproxy serve --listen {address}")),
                    "{message}"
                );
            }
            other => panic!("{other:?}"),
        }
        for script in [
            "SSH-2.0-OpenSSH\r\n".repeat(10),
            answer("404 Not Found", "<html>"),
        ] {
            let (daemon, _asked) = scripted(script).await;
            let other = info(&daemon).await;
            assert!(matches!(other, Err(Failure::NoDaemon(_))), "{other:?}");
        }
        let (daemon, _asked) = scripted(String::new()).await;
        let other = info(&daemon).await;
        assert!(matches!(other, Err(Failure::Failed(_))), "{other:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_costs_ten_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let daemon = Daemon {
            address: Address::Tcp(listener.local_addr().unwrap()),
        };
        match info(&daemon).await {
            Err(Failure::Failed(error)) => assert!(error.to_string().contains("10 s"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}
