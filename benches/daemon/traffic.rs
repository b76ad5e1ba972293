//! What passes through: small requests, storms of events, large answers, many readers.

use std::thread;
use std::time::{Duration, Instant};

use crate::children::Server;
use crate::peers::{Canned, Client, client, pair};
use crate::{Effort, Goal, median, micros, percentile, remark, report};

/// The pid that scripted debug servers begin with.
const PID: u32 = 1_000_000;

/// What is measured, and what it is measured against; each with a pair of peers.
struct Contest {
    daemon: Server,
    relay: Server,
    through_daemon: Client,
    through_relay: Client,
}

impl Contest {
    fn new() -> Contest {
        let daemon = Server::daemon();
        let relay = Server::role("relay");
        Contest {
            through_daemon: pair(daemon.address, PID),
            through_relay: pair(relay.address, PID),
            daemon,
            relay,
        }
    }

    /// Lets both take turns; gives what each of the rounds has measured: the daemon's, the relay's.
    fn rounds<T>(
        &mut self,
        count: usize,
        mut round: impl FnMut(&Server, &mut Client) -> T,
    ) -> (Vec<T>, Vec<T>) {
        // The first round of each fills caches and grows buffers.
        round(&self.daemon, &mut self.through_daemon);
        round(&self.relay, &mut self.through_relay);
        (0..count)
            .map(|_| {
                (
                    round(&self.daemon, &mut self.through_daemon),
                    round(&self.relay, &mut self.through_relay),
                )
            })
            .unzip()
    }
}

/// One small request at a time, with an answer of 200 bytes.
pub fn round_trip(effort: Effort) {
    let requests = effort.of(2000, 1000);
    let mut canned = Canned::threads_request();
    let mut seq = 1000;
    let mut rounds = (Vec::new(), Vec::new());
    // How the system places the threads of a process lasts, and can double its time: several are asked.
    for _ in 0..effort.of(6, 2) {
        let (ours, theirs) = Contest::new().rounds(5, |server, client| {
            let cpu = server.cpu();
            let times: Vec<f64> = (0..requests)
                .map(|_| {
                    seq += 1;
                    let start = Instant::now();
                    client.wire.write(canned.numbered(seq));
                    client.wire.frame().expect("the middleman is there");
                    micros(start.elapsed())
                })
                .collect();
            let cpu = micros(server.cpu() - cpu) / requests as f64;
            [percentile(&times, 0.5), percentile(&times, 0.99), cpu]
        });
        rounds.0.extend(ours);
        rounds.1.extend(theirs);
    }
    let figure = |rounds: &[[f64; 3]], which: usize| {
        median(&rounds.iter().map(|round| round[which]).collect::<Vec<_>>())
    };
    for (which, name, goal) in [
        (0, "round trip, p50", 1.15),
        (1, "round trip, p99", 1.15),
        (2, "round trip, CPU", 1.3),
    ] {
        let (ours, theirs) = (figure(&rounds.0, which), figure(&rounds.1, which));
        report(
            name,
            &format!("{ours:.1} µs"),
            &format!("relay {theirs:.1} µs"),
            (ours / theirs, "×"),
            Goal::AtMost(goal),
        );
    }
}

/// As many output events as a process can say, to one client that reads.
///
/// pydevd writes the header and the body of each event apart, which is what the goal is about; what a debug
/// server could say that gathers hundreds of events into one write is measured besides.
pub fn storm(effort: Effort) {
    for (name, gathered, goal) in [
        ("event storm to one client", false, 0.8),
        ("event storm, 256 in a write", true, 0.8),
    ] {
        // A multiple of what is written at once.
        let events = effort.of(500, 100) * 1024;
        let mut lost = 0;
        let rounds = Contest::new().rounds(effort.of(5, 3), |_, client| {
            let start = Instant::now();
            client.start_storm(events, gathered);
            let came = client.weather_storm();
            lost += events - came;
            came as f64 / start.elapsed().as_secs_f64()
        });
        let (ours, theirs) = (median(&rounds.0), median(&rounds.1));
        report(
            name,
            &format!("{ours:.0} /s"),
            &format!("relay {theirs:.0} /s"),
            (ours / theirs, "×"),
            Goal::AtLeast(goal),
        );
        tell_of_losses(name, lost);
    }
}

fn tell_of_losses(name: &str, lost: usize) {
    if lost > 0 {
        remark(name, format_args!("{lost} events were left out: MISSED"));
    }
}

/// Answers of 1 MiB, one at a time and four: who waits for one has to wait until it has come whole, for it is
/// not passed on before.
pub fn large(effort: Effort) {
    let requests = effort.of(200, 50);
    for (name, ahead) in [
        ("answers of 1 MiB, four at a time", 4),
        ("answers of 1 MiB, one at a time", 1),
    ] {
        let mut canned = Canned::variables_request();
        let mut seq = 1000;
        let rounds = Contest::new().rounds(effort.of(10, 3), |_, client| {
            let start = Instant::now();
            let mut bytes = 0;
            for asked in 1..requests + ahead {
                if asked <= requests {
                    seq += 1;
                    client.wire.write(canned.numbered(seq));
                }
                if asked >= ahead {
                    bytes += client.wire.frame().expect("the middleman is there").len();
                }
            }
            bytes as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64()
        });
        let (ours, theirs) = (median(&rounds.0), median(&rounds.1));
        report(
            name,
            &format!("{ours:.0} MiB/s"),
            &format!("relay {theirs:.0} MiB/s"),
            (ours / theirs, "×"),
            Goal::AtLeast(0.8),
        );
    }
}

/// A storm to many clients of one process.
pub fn fan_out(effort: Effort) {
    const CLIENTS: usize = 32;
    let events = effort.of(100, 25) * 1024;
    let daemon = Server::daemon();
    let mut clients = vec![pair(daemon.address, PID)];
    clients.resize_with(CLIENTS, || client(daemon.address));
    let mut rates = Vec::new();
    let mut lost = 0;
    let mut cpu = Duration::ZERO;
    for _ in 0..=effort.of(5, 3) {
        let before = daemon.cpu();
        let start = Instant::now();
        clients[0].start_storm(events, true);
        let came: usize = thread::scope(|scope| {
            let readers: Vec<_> = clients
                .iter_mut()
                .map(|client| scope.spawn(|| client.weather_storm()))
                .collect();
            let came = readers.into_iter().map(|reader| reader.join());
            came.map(|came| came.expect("a client has read all")).sum()
        });
        rates.push(came as f64 / start.elapsed().as_secs_f64());
        cpu += daemon.cpu() - before;
        lost += events * CLIENTS - came;
    }
    let deliveries = rates.len() * events * CLIENTS - lost;
    // The first round was for warming up.
    let rate = median(&rates[1..]);
    report(
        "32 clients on one session",
        &format!("{rate:.0} /s"),
        &format!("CPU {:.2} µs each", micros(cpu) / deliveries as f64),
        (rate, "/s"),
        Goal::AtLeast(1e6),
    );
    tell_of_losses("32 clients on one session", lost);
}
