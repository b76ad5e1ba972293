//! Thousands of processes in one session.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::support::{Daemon, DebugServer};
use super::{PATH, merged, process, top};

const PROCESSES: i64 = 2000;
const THREADS: usize = 50;
/// How many connect at a time.
const TROOP: usize = 100;

/// A crowd of processes, all of which run, each with as many threads.
async fn crowd(address: SocketAddr, pids: Range<i64>) -> Vec<DebugServer> {
    let mut servers = Vec::new();
    let pids: Vec<i64> = pids.collect();
    for troop in pids.chunks(TROOP) {
        let mut coming = JoinSet::new();
        for pid in troop {
            let pid = *pid;
            coming.spawn(async move {
                let server = DebugServer::new(pid).connect(address).await;
                server.released().await;
                for number in 1..THREADS {
                    server.start_thread(&number.to_string());
                }
                server
            });
        }
        servers.extend(coming.join_all().await);
    }
    servers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_processes_of_fifty_threads() {
    let daemon = Daemon::start().await;
    // Half of them are there before the client, the others come to it.
    let half = 5_000_000 + PROCESSES / 2;
    let mut servers = crowd(daemon.address, 5_000_000..half).await;
    let mut client = merged(&daemon, &json!({}))
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    let coming = tokio::spawn(crowd(daemon.address, half..5_000_000 + PROCESSES));
    let all = PROCESSES as usize * THREADS;
    let mut started = BTreeSet::new();
    while started.len() < all {
        let body = client.event("thread").await;
        assert!(started.insert(body["threadId"].as_i64().expect("a number")));
    }
    servers.extend(coming.await.expect("they come"));
    let threads = client.threads().await;
    assert!(threads.keys().eq(&started));
    for server in &servers {
        assert_eq!(server.breakpoints(PATH).len(), 1);
    }

    // One stops, of all threads.
    let chosen = &servers[servers.len() / 3];
    chosen.set_local(chosen.main_thread, "n", "7");
    assert!(chosen.reach(PATH, 3));
    let first = client.stopped().await;
    assert_eq!(first.reason, "breakpoint");
    let (frame, _) = top(&mut client, first.thread).await;
    assert_eq!(client.evaluate("n", &frame).await, "7");
    let mut stopped = BTreeSet::from([first.thread]);
    while stopped.len() < THREADS {
        assert!(stopped.insert(client.stopped().await.thread), "twice");
    }
    // It runs on, and nothing of the stop is left.
    client.continue_(first.thread).await;
    for _ in 0..THREADS {
        let body = client.event("continued").await;
        assert!(stopped.remove(&body["threadId"].as_i64().expect("a number")));
    }
    client
        .refused("scopes", json!({ "frameId": frame["id"] }))
        .await;

    // All leave at once; one that comes then is as good as the first.
    for server in &servers {
        server.finish();
    }
    while !started.is_empty() {
        let body = client.event("thread").await;
        assert_eq!(body["reason"], "exited");
        assert!(started.remove(&body["threadId"].as_i64().expect("a number")));
    }
    assert!(client.threads().await.is_empty());
    let server = process(&daemon, 5_000_000).await;
    assert!(server.reach(PATH, 3));
    let last = client.stopped_at(3).await;
    assert_eq!(client.threads().await.len(), 1);
    client.continue_(last.thread).await;
    client.request("modules", Value::Null).await;
    client.disconnect().await;
}
