//! The monitor's own log: a file of JSON lines, one for each thing that becomes of a finding, and one a minute that says
//! how things stand.
//!
//! It is written by a thread of its own, so that a slow disk holds up nobody. What cannot be written is lost, and that
//! is said once in the daemon's log; the next line is tried again.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Alert;

/// From how many bytes on the file is put aside and a new one begun.
pub const MAX_SIZE: u64 = 16 << 20;

/// How many files that were put aside are kept, as `FILE.1` (the last) to `FILE.3`; the oldest is removed.
pub const OLD_FILES: u32 = 3;

/// How often it is said how things stand.
pub const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);

/// How many lines wait to be written; further ones are left out, and the next summary says how many.
const QUEUE: usize = 1024;

/// How long the last lines may take to be written when the daemon stops.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log, while it is written.
pub struct Log {
    lines: SyncSender<String>,
    /// How many lines were left out since the last summary.
    left_out: u64,
    /// Answered by being dropped, when the last line is written.
    done: oneshot::Receiver<()>,
}

impl Log {
    /// Begins to write.
    ///
    /// # Errors
    /// There can be no thread for it.
    pub fn start(path: &Path) -> anyhow::Result<Log> {
        let (tx, rx) = sync_channel(QUEUE);
        let (is_done, done) = oneshot::channel();
        let file = File::new(path.to_owned(), MAX_SIZE);
        let body = move || {
            file.write_all(&rx);
            drop::<oneshot::Sender<()>>(is_done);
        };
        let thread = thread::Builder::new()
            .name("monitor-log".into())
            .spawn(body);
        thread.context("cannot start the thread that writes the monitor's log")?;
        Ok(Log {
            lines: tx,
            left_out: 0,
            done,
        })
    }

    /// Something has become of a finding.
    pub fn alert(&mut self, time: Timestamp, alert: &Alert) {
        let Alert { reason, finding } = alert;
        let line = json!({ "time": time, "event": reason, "finding": **finding });
        self.put(line.to_string());
    }

    /// How things stand.
    pub fn summary(&mut self, time: Timestamp, mut summary: Value) {
        if self.left_out > 0 {
            summary["linesLeftOut"] = std::mem::take(&mut self.left_out).into();
        }
        let line = json!({ "time": time, "event": "summary", "summary": summary });
        self.put(line.to_string());
    }

    fn put(&mut self, mut line: String) {
        line.push('\n');
        if self.lines.try_send(line).is_err() {
            self.left_out += 1;
        }
    }

    /// Waits a little for the last lines to be written.
    pub async fn end(self) {
        drop(self.lines);
        let _ = timeout(LAST_LINES, self.done).await;
    }
}

/// The file, which is opened anew for every line: whoever moves or empties it is in nobody's way.
struct File {
    path: PathBuf,
    max_size: u64,
    /// Whether the last line could not be written.
    has_failed: bool,
}

impl File {
    fn new(path: PathBuf, max_size: u64) -> File {
        File {
            path,
            max_size,
            has_failed: false,
        }
    }

    fn write_all(mut self, lines: &Receiver<String>) {
        for line in lines {
            self.write(&line);
        }
    }

    /// Writes a line; what goes wrong is said once.
    fn write(&mut self, line: &str) {
        let path = self.path.display();
        match self.try_write(line) {
            Ok(()) if self.has_failed => {
                tracing::info!(%path, "the monitor's log is written again");
                self.has_failed = false;
            }
            Ok(()) => {}
            Err(error) if !self.has_failed => {
                tracing::warn!(%path, %error, "cannot write the monitor's log; what it misses is lost, and the rest goes on");
                self.has_failed = true;
            }
            Err(_) => {}
        }
    }

    fn try_write(&self, line: &str) -> io::Result<()> {
        let open = || {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.path)
        };
        let mut file = open()?;
        let metadata = file.metadata()?;
        let mut size = metadata.len();
        // A pipe or a terminal has no end.
        if metadata.is_file() && size > 0 && size + line.len() as u64 > self.max_size {
            drop(file);
            self.put_aside()?;
            file = open()?;
            size = 0;
        }
        let written = file.write_all(line.as_bytes());
        if written.is_err() && metadata.is_file() {
            // Half a line would spoil the next one.
            let _ = file.set_len(size);
        }
        written
    }

    fn put_aside(&self) -> io::Result<()> {
        let old = |number: u32| {
            let mut path = self.path.clone().into_os_string();
            path.push(format!(".{number}"));
            PathBuf::from(path)
        };
        for number in (1..OLD_FILES).rev() {
            match fs::rename(old(number), old(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, old(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn full_files_are_put_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("monitor.jsonl");
        let mut file = File::new(path.clone(), 10);
        for number in 0..11 {
            file.write(&format!("{number:04}\n"));
        }
        assert!(!file.has_failed);
        let old = |number: u32| read(&directory.path().join(format!("monitor.jsonl.{number}")));
        assert_eq!(read(&path), "0010\n");
        assert_eq!(
            [old(1), old(2), old(3), old(4)],
            ["0008\n0009\n", "0006\n0007\n", "0004\n0005\n", ""]
        );
        // A line that is larger than a file is one by itself.
        file.write("a long line\n");
        assert_eq!(
            (read(&path), old(1)),
            ("a long line\n".into(), "0010\n".into())
        );
        // Whoever takes it away is in nobody's way.
        fs::remove_file(&path).expect("it is there");
        file.write("x\n");
        assert_eq!(read(&path), "x\n");
    }

    #[test]
    fn what_cannot_be_written_is_lost_and_the_rest_goes_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("no/monitor.jsonl");
        let mut file = File::new(path.clone(), 10);
        file.write("lost\n");
        assert!(file.has_failed);
        fs::create_dir(directory.path().join("no")).expect("it can be made");
        file.write("kept\n");
        assert!(!file.has_failed);
        assert_eq!(read(&path), "kept\n");
        let mut full = File::new("/dev/full".into(), 10);
        full.write("lost\n");
        assert!(full.has_failed);
    }

    #[tokio::test]
    async fn lines_are_json() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("monitor.jsonl");
        let mut log = Log::start(&path).expect("a thread");
        let time = Timestamp::from_second(7).expect("a time");
        log.left_out = 2;
        for _ in 0..2 {
            log.summary(time, json!({ "locks": 3 }));
        }
        log.end().await;
        let text = read(&path);
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let line = |summary: Value| json!({ "time": time, "event": "summary", "summary": summary });
        assert_eq!(
            lines,
            [
                line(json!({ "locks": 3, "linesLeftOut": 2 })),
                line(json!({ "locks": 3 }))
            ]
        );
    }
}
