//! `dbgproxy top`: what runs, what waits and what is wrong, drawn anew each second until somebody has seen enough.
//!
//! It asks for a report as every script can, and draws with a few escape sequences that all terminals know. Whatever
//! ends it, the terminal is as it was before.

use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::http::Daemon;
use super::{Failure, put};
use crate::selector::Selector;
use crate::text::Screen;

/// How often it is drawn anew.
const PERIOD: Duration = Duration::from_secs(1);

/// How large a terminal is that does not say so.
const SCREEN: Screen = Screen {
    width: 120,
    height: 50,
};

/// How large a frame is that no terminal shows: no line is cut.
const PAPER: Screen = Screen {
    width: usize::MAX,
    ..SCREEN
};

/// The arguments of `top`.
#[derive(Debug, clap::Args)]
pub struct Top {
    /// Which sessions: pid=41, name=worker-*, rank=0..3, state=stopped, id=3fa8, label.KEY=VALUE;
    /// a comma is "and"
    #[arg(default_value = "all")]
    pub selector: Selector,

    /// Print one frame, no line of it cut, and end, as without a terminal
    #[arg(long)]
    pub once: bool,

    /// Print a report a line, until Ctrl-C
    #[arg(long)]
    pub json: bool,

    /// Whom to ask.
    #[command(flatten)]
    pub daemon: Daemon,
}

impl Top {
    pub(super) fn run(self) -> Result<(), Failure> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(self.show())
    }

    async fn show(&self) -> Result<(), Failure> {
        if self.json {
            return self.print().await;
        }
        if self.once || !io::stdout().is_terminal() {
            // What is used shows only over some time.
            self.ask().await?;
            tokio::time::sleep(PERIOD).await;
            let (_, report) = self.ask().await?;
            return put(self.frame(&report, PAPER));
        }
        #[cfg(unix)]
        return terminal::watch(self).await;
        #[cfg(not(unix))]
        loop {
            let (_, report) = self.ask().await?;
            put(format_args!("\x1b[2J\x1b[H{}", self.frame(&report, SCREEN)))?;
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// One report a line.
    async fn print(&self) -> Result<(), Failure> {
        let mut next = Instant::now();
        loop {
            let (body, _) = self.ask().await?;
            // In JSON a line break is never inside a text, so that a space will do.
            put(format_args!("{}\n", body.trim().replace(['\n', '\r'], " ")))?;
            if self.once {
                return Ok(());
            }
            next = Instant::now().max(next + PERIOD);
            tokio::select! {
                () = sleep_until(next) => {}
                stop = tokio::signal::ctrl_c() => {
                    return stop.context("cannot listen for Ctrl-C").map_err(Failure::from);
                }
            }
        }
    }

    /// The daemon's report, as it came and as we read it.
    async fn ask(&self) -> Result<(String, Value), Failure> {
        let arguments = json!({ "selector": self.selector });
        let asking = self.daemon.call("report", &arguments, Duration::ZERO);
        let (body, report) = asking.await?;
        match report["summary"].is_object() {
            true => Ok((body, report)),
            false => Err(self.daemon.not_dbgproxy()),
        }
    }

    fn frame(&self, report: &Value, screen: Screen) -> String {
        let title = format!("dbgproxy at {}", self.daemon.address);
        screen.draw(&title, report)
    }
}

/// A terminal of which all belongs to us for a while.
#[cfg(unix)]
mod terminal {
    use std::io::{self, Read, Write};
    use std::thread;

    use anyhow::{Context, anyhow};
    use rustix::termios::{
        LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr,
    };
    use serde_json::Value;
    use tokio::signal::unix::{SignalKind, signal};
    use tokio::sync::mpsc;
    use tokio::time::{MissedTickBehavior, interval};

    use super::super::{Failure, put};
    use super::{PERIOD, SCREEN, Screen, Top};

    /// To another screen, without a cursor.
    const ENTER: &str = "\x1b[?1049h\x1b[?25l";

    /// Back, and the cursor is there again.
    const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

    /// How many keys wait; further ones are lost.
    const KEYS: usize = 16;

    /// The key that ends it, and Control-C, Control-D, Control-\.
    const ENDS: [u8; 5] = [b'q', b'Q', 3, 4, 28];

    /// The terminal is ours until this is dropped.
    struct Ours {
        /// How keys were treated before; none where there are none.
        before: Option<Termios>,
    }

    impl Ours {
        fn take() -> Result<Ours, Failure> {
            let before = tcgetattr(io::stdin()).ok();
            if let Some(before) = &before {
                let mut keys = before.clone();
                // Each key comes at once, and none is shown or is a signal.
                keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
                tcsetattr(io::stdin(), OptionalActions::Now, &keys)
                    .map_err(|error| anyhow!(error).context("cannot listen to the keyboard"))?;
            }
            let ours = Ours { before };
            put(ENTER)?;
            Ok(ours)
        }
    }

    impl Drop for Ours {
        fn drop(&mut self) {
            // With the terminal gone there is nothing to restore.
            let mut stdout = io::stdout().lock();
            let _ = stdout
                .write_all(LEAVE.as_bytes())
                .and_then(|()| stdout.flush());
            if let Some(before) = &self.before {
                let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
            }
        }
    }

    /// The keys that are pressed; none where there is no keyboard.
    fn keys() -> mpsc::Receiver<u8> {
        let (tx, rx) = mpsc::channel(KEYS);
        // It ends with the program: nobody else can wait for a key.
        thread::spawn(move || {
            for key in io::stdin().lock().bytes() {
                let Ok(key) = key else { return };
                let _ = tx.try_send(key);
            }
        });
        rx
    }

    fn size() -> Screen {
        let size = tcgetwinsize(io::stdout()).ok();
        let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or(SCREEN, |size| Screen {
            width: size.ws_col.into(),
            height: size.ws_row.into(),
        })
    }

    /// Draws until a key or a signal ends it.
    pub(super) async fn watch(top: &Top) -> Result<(), Failure> {
        // If there is nobody to ask, that is said on the screen that stays.
        let (_, mut report) = top.ask().await?;
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let mut resized = listen(SignalKind::window_change())?;
        let mut ends = [
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ];
        let _ours = Ours::take()?;
        let mut keys = keys();
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        let mut trouble = None;
        loop {
            draw(top, &report, trouble.as_deref())?;
            let [interrupt, terminate, hangup] = &mut ends;
            tokio::select! {
                key = keys.recv(), if !keys.is_closed() => match key {
                    Some(key) if ENDS.contains(&key) => return Ok(()),
                    _ => {}
                },
                _ = resized.recv() => {}
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = hangup.recv() => return Ok(()),
                _ = tick.tick() => {
                    // A key must not wait for an answer that does not come.
                    tokio::select! {
                        answer = top.ask() => match answer {
                            Ok((_, new)) => (report, trouble) = (new, None),
                            Err(Failure::NoDaemon(why)) => trouble = Some(why),
                            Err(Failure::Failed(error)) => trouble = Some(format!("{error:#}")),
                            Err(failure) => return Err(failure),
                        },
                        key = keys.recv(), if !keys.is_closed() => {
                            if key.is_some_and(|key| ENDS.contains(&key)) {
                                return Ok(());
                            }
                        }
                        _ = interrupt.recv() => return Ok(()),
                        _ = terminate.recv() => return Ok(()),
                        _ = hangup.recv() => return Ok(()),
                    }
                }
            }
        }
    }

    /// Draws over what is there, line by line: a screen that is emptied first flickers.
    fn draw(top: &Top, report: &Value, trouble: Option<&str>) -> Result<(), Failure> {
        let screen = size();
        let mut frame = top.frame(report, screen);
        if let Some(trouble) = trouble {
            let trouble = trouble.lines().next().unwrap_or_default();
            let rest = frame.split_once('\n').map_or("", |(_, rest)| rest);
            frame = format!("{}\n{rest}", screen.cut(&format!("! {trouble}")));
        }
        let lines: Vec<&str> = frame.lines().take(screen.height).collect();
        put(format_args!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::tests::{answer, scripted};
    use super::*;

    fn top(daemon: Daemon) -> Top {
        Top {
            selector: Selector::default(),
            once: true,
            json: false,
            daemon,
        }
    }

    #[tokio::test]
    async fn asks_for_a_report() {
        let (daemon, asked) = scripted(answer("200 OK", r#"{"summary":{}}"#)).await;
        let (body, report) = top(daemon).ask().await.unwrap();
        assert_eq!(
            (body.as_str(), report),
            (r#"{"summary":{}}"#, json!({ "summary": {} }))
        );
        assert!(asked.await.unwrap().starts_with("POST /api/v1/report "));
        let (daemon, _asked) = scripted(answer("200 OK", "{}")).await;
        assert!(matches!(top(daemon).ask().await, Err(Failure::NoDaemon(_))));
    }
}
