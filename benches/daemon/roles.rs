//! What dbgproxy is measured against: the least that a middleman, or a greeter, can do.
//!
//! Each runs in a process of its own on the same kind of runtime as the daemon.

use std::io;

use bytes::BytesMut;
use dbgproxy::link::{Link, Stream};
use dbgproxy::wire::{Kind, Message};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// How much the relay reads at once: enough not to be what limits it.
const CHUNK: usize = 64 * 1024;

/// The size of the text that a greeting makes a debug server run, in bytes; about that of the guard.
const GUARD_SIZE: usize = 18 * 1024;

/// Plays a role until it is killed.
pub fn play(role: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the runtime starts");
    let played = match role {
        "relay" => runtime.block_on(relay()),
        "acceptor" => runtime.block_on(acceptor()),
        other => panic!("there is no role {other:?}"),
    };
    played.expect("the role is played to its end");
}

async fn listen() -> io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener = socket.listen(4096)?;
    println!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Copies bytes between each connection and the one that comes after it, and looks at none of them.
async fn relay() -> io::Result<()> {
    let listener = listen().await?;
    loop {
        let (one_reads, one_writes) = accept(&listener).await?.into_split();
        let (other_reads, other_writes) = accept(&listener).await?.into_split();
        tokio::spawn(copy(one_reads, other_writes));
        tokio::spawn(copy(other_reads, one_writes));
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

/// Greets each connection at once, as if it were known to be a debug server, and keeps nothing of it.
async fn acceptor() -> io::Result<()> {
    let listener = listen().await?;
    loop {
        let stream = accept(&listener).await?;
        tokio::spawn(greet(stream));
    }
}

async fn greet(stream: TcpStream) -> anyhow::Result<()> {
    let mut link = Link::new(Stream::Tcp(stream), BytesMut::new());
    let guard = json!({ "expression": "#".repeat(GUARD_SIZE) });
    for (command, arguments) in [
        ("pydevdSystemInfo", json!({})),
        ("pydevdAuthorize", json!({})),
        ("evaluate", guard),
        ("initialize", json!({})),
        ("attach", json!({})),
    ] {
        let seq = link.out.send(&Message::request(command, arguments));
        link.flush().await?;
        loop {
            let message = link.next().await?;
            let message = message.ok_or_else(|| anyhow::anyhow!("it has gone"))?;
            if message.kind() == Kind::Response && message.request_seq() == seq {
                break;
            }
        }
    }
    link.out
        .send(&Message::request("configurationDone", json!({})));
    link.flush().await?;
    // Its answers are read until it goes.
    while link.next().await?.is_some() {}
    Ok(())
}
