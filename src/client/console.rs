//! Commands in the debug console: lines that begin with `:` are for the daemon, in every view.
//!
//! A command is a verb with what a person types around it; what comes of it is shown as the command line shows it.
//! This module knows no connection.

use serde_json::{Value, json};

use super::{Client, Seat, View};
use crate::control::{self, Access, Code, Error};
use crate::hub::Hub;
use crate::selector::Selector;
use crate::text;

/// How many completions are offered at most.
const MAX_TARGETS: usize = 100;

/// The longest line that is looked at, in bytes; a longer one is no command.
const MAX_LINE: usize = 64 * 1024;

/// From which likeness on, of 0 to 1, a name may be a command's that is misspelt.
const NEAR: f64 = 0.8;

/// A command.
struct Command {
    name: &'static str,
    takes: Takes,
    verb: &'static str,
    /// Which part of what the verb knows.
    part: Option<&'static str>,
    help: &'static str,
}

/// What stands behind a command's name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Nothing.
    Nothing,
    /// A selector, if any.
    MaybeSelector,
    /// A selector.
    Selector,
    /// A selector and an expression.
    Expression,
}

/// Every command, in the order of `:help`.
const COMMANDS: [Command; 21] = {
    use Takes::{Expression, MaybeSelector, Nothing, Selector};
    const fn command(
        name: &'static str,
        takes: Takes,
        verb: &'static str,
        help: &'static str,
    ) -> Command {
        Command {
            name,
            takes,
            verb,
            part: None,
            help,
        }
    }
    const fn part(name: &'static str, help: &'static str) -> Command {
        let part = Some(name);
        let command = command(name, MaybeSelector, "monitor", help);
        Command { part, ..command }
    }
    [
        command(
            "sessions",
            MaybeSelector,
            "sessions",
            "the processes, and where they stand",
        ),
        command("threads", MaybeSelector, "threads", "their threads"),
        command(
            "bt",
            MaybeSelector,
            "stacks",
            "where all threads and tasks are, equal stacks once",
        ),
        command(
            "eval",
            Expression,
            "evaluate",
            "evaluate in each, and see which one differs",
        ),
        command(
            "vars",
            MaybeSelector,
            "variables",
            "the local variables where they are stopped",
        ),
        command("output", MaybeSelector, "output", "their last output"),
        command("pause", MaybeSelector, "pause", "pause them"),
        command("continue", MaybeSelector, "continue", "let them run"),
        command(
            "next",
            MaybeSelector,
            "next",
            "step over a line in each that is stopped",
        ),
        command("step", MaybeSelector, "stepIn", "step into a call"),
        command("out", MaybeSelector, "stepOut", "step out of a function"),
        part("locks", "who holds which lock, and who waits for it"),
        part("tasks", "asyncio's tasks, and where they wait"),
        part("findings", "what is wrong, and since when"),
        command(
            "report",
            MaybeSelector,
            "report",
            "all of these and more, what is wrong first",
        ),
        command(
            "breakpoints",
            Nothing,
            "breakpoints.list",
            "the daemon's own breakpoints",
        ),
        command(
            "detach",
            Selector,
            "detach",
            "all clients leave them, and they run on",
        ),
        command("terminate", Selector, "terminate", "end them"),
        command("info", Nothing, "info", "the daemon"),
        command("session", Selector, "session", "all that is known of one"),
        command("help", Nothing, "", "this list"),
    ]
};

/// Whether the text of a console is a command, and not for a process.
pub(super) fn is_command(text: &str) -> bool {
    // No Python expression begins so.
    text.len() <= MAX_LINE && text.trim_start().starts_with(':')
}

/// Carries out a command for somebody who may do as much as `may`, and sees `view` unless it names others.
///
/// # Errors
/// The command, its selector or the verb itself, in words for the user.
pub(super) async fn run(
    hub: &Hub,
    line: &str,
    view: &Selector,
    may: Access,
) -> Result<String, Error> {
    let (command, rest) = split(line.trim());
    let name = command.trim_start_matches(':');
    let command = find(name)?;
    let (selector, expression) = match command.takes {
        Takes::Expression => split(rest),
        _ => (rest, ""),
    };
    let missing = match command.takes {
        Takes::Nothing if !rest.is_empty() => Some("takes nothing"),
        Takes::Selector if rest.is_empty() => Some("needs a selector, be it `all`"),
        Takes::Expression if expression.is_empty() => Some("needs a selector and an expression"),
        _ => None,
    };
    if let Some(missing) = missing {
        let why = format!("`:{name}` {missing}; `:help` shows how");
        return Err(Error::new(Code::BadRequest, why));
    }
    if command.verb.is_empty() {
        return Ok(help());
    }
    let mut arguments = json!({});
    if command.takes != Takes::Nothing {
        arguments["selector"] = match selector {
            "" => view.to_string(),
            selector => selector.to_owned(),
        }
        .into();
    }
    if let Some(part) = command.part {
        arguments["part"] = part.into();
    }
    if command.takes == Takes::Expression {
        arguments["expression"] = expression.into();
        arguments["context"] = "repl".into();
    }
    let answer = control::call(hub, command.verb, &arguments, may).await?;
    Ok(text::show(command.verb, &answer))
}

/// The command of that name, or the only one that begins so.
fn find(name: &str) -> Result<&'static Command, Error> {
    if let Some(exact) = COMMANDS.iter().find(|command| command.name == name) {
        return Ok(exact);
    }
    let begins = |command: &&Command| !name.is_empty() && command.name.starts_with(name);
    let beginning: Vec<&Command> = COMMANDS.iter().filter(begins).collect();
    match beginning[..] {
        [only] => Ok(only),
        [] => {
            let near = match names(&near(name)) {
                near if near.is_empty() => near,
                near => format!(", did you mean {near}?"),
            };
            let why = format!("there is no command `:{name}`{near}; `:help` lists those there are");
            Err(Error::new(Code::NotFound, why))
        }
        _ => {
            let why = format!("`:{name}` may be {}", names(&beginning));
            Err(Error::new(Code::BadRequest, why))
        }
    }
}

/// The commands that somebody may have meant: those for the verb of that name, or those that are spelt much like it.
fn near(name: &str) -> Vec<&'static Command> {
    let is_for = |command: &&Command| !name.is_empty() && command.verb == name;
    let of_verb: Vec<&Command> = COMMANDS.iter().filter(is_for).collect();
    if !of_verb.is_empty() {
        return of_verb;
    }
    let is_like = |command: &&Command| strsim::jaro_winkler(command.name, name) > NEAR;
    COMMANDS.iter().filter(is_like).collect()
}

fn names(commands: &[&Command]) -> String {
    let names: Vec<String> = commands
        .iter()
        .map(|command| format!("`:{}`", command.name))
        .collect();
    names.join(" or ")
}

fn help() -> String {
    let mut text = String::new();
    for command in &COMMANDS {
        let takes = match command.takes {
            Takes::Nothing => "",
            Takes::MaybeSelector => " [SELECTOR]",
            Takes::Selector => " SELECTOR",
            Takes::Expression => " SELECTOR EXPRESSION",
        };
        let usage = format!(":{}{takes}", command.name);
        text += &format!("{usage:28} {}\n", command.help);
    }
    text + "\nSELECTOR picks processes: all, a pid, a name (worker-*), name=\"rank 3\", rank=0..3, state=stopped, id=3fa8,\n\
            label.KEY=VALUE; a comma is \"and\". Without one it is what this session shows. A command may be shortened."
}

/// The first word and the rest. A word may have white space in double quotes.
fn split(text: &str) -> (&str, &str) {
    let mut quoted = false;
    let mut escaped = false;
    let end = text.find(|c: char| {
        let is_end = c.is_whitespace() && !quoted;
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = c == '\\' && !escaped;
        is_end
    });
    let (word, rest) = text.split_at(end.unwrap_or(text.len()));
    (word, rest.trim_start())
}

/// What may stand at the end of a line, as DAP's completion items: `start` and `length` say, in UTF-16 code units,
/// which part of the line they take the place of.
pub(super) fn complete(hub: &Hub, line: &str) -> Vec<Value> {
    let word = last_word(line);
    let before = &line[..line.len() - word.len()];
    let candidates: Vec<Candidate> = match find_exactly(before.trim()) {
        // The command itself.
        _ if before.trim().is_empty() => {
            let names = COMMANDS.iter().map(|command| format!(":{}", command.name));
            names.map(|name| (name, None)).collect()
        }
        Some(command) if command.takes != Takes::Nothing => conditions(hub),
        _ => Vec::new(),
    };
    // Of a selector only the last condition is to be completed.
    let part = match word.rfind(',') {
        Some(comma) if !word.starts_with(':') => &word[comma + 1..],
        _ => word,
    };
    let utf16 = |text: &str| text.encode_utf16().count();
    let start = utf16(&line[..line.len() - part.len()]);
    let fitting = candidates.into_iter().filter(|(text, name)| {
        // A name may be typed without anything around it.
        let is_called_so = |name: &String| name.starts_with(part.trim_start_matches('"'));
        text.starts_with(part) || name.as_ref().is_some_and(is_called_so)
    });
    fitting
        .take(MAX_TARGETS)
        .map(|(text, _)| json!({ "label": text, "start": start, "length": utf16(part) }))
        .collect()
}

/// The word that is being typed: what stands behind the last white space outside of quotes.
fn last_word(line: &str) -> &str {
    let mut rest = line.trim_start();
    loop {
        let (word, next) = split(rest);
        if word.len() == rest.len() {
            return word;
        }
        rest = next;
    }
}

fn find_exactly(name: &str) -> Option<&'static Command> {
    find(name.strip_prefix(':')?).ok()
}

/// A text that may stand there, and the name that it is about.
type Candidate = (String, Option<String>);

/// The conditions that pick something now.
fn conditions(hub: &Hub) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = ["all", "state=stopped", "state=running"]
        .map(|text| (text.to_owned(), None))
        .into();
    for session in hub.sessions() {
        let info = session.info();
        if info.helper {
            continue;
        }
        let named = Selector::named(&info.name).to_string();
        all.push((named, Some(info.name.clone())));
        all.push((format!("pid={}", info.pid), None));
        let rank = info.labels.get("rank");
        all.extend(rank.map(|rank| (format!("rank={rank}"), None)));
    }
    all.sort();
    all.dedup();
    all
}

impl Client {
    /// The sessions that a command means that names none.
    pub(super) fn in_view(&self) -> Selector {
        match (&self.seat, &*self.handle.view()) {
            (Seat::Process(membership), _) => Selector::of_id(membership.session.id),
            (_, View::Waiting(_, selector) | View::Tree(selector) | View::Merged(selector)) => {
                selector.clone()
            }
            _ => Selector::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_have_white_space_in_quotes() {
        for (text, word, rest) in [
            ("all", "all", ""),
            ("all x + 1", "all", "x + 1"),
            (
                r#"name="rank 3",pid=1   d["a b"]"#,
                r#"name="rank 3",pid=1"#,
                r#"d["a b"]"#,
            ),
            (r#"name="a \" b" x"#, r#"name="a \" b""#, "x"),
            (r#"name="open x"#, r#"name="open x"#, ""),
            ("", "", ""),
        ] {
            assert_eq!(split(text), (word, rest), "{text}");
        }
        assert_eq!(last_word(r#":bt name="rank 3",st"#), r#"name="rank 3",st"#);
        assert_eq!(last_word(":bt "), "");
    }

    #[test]
    fn a_command_may_be_shortened_as_long_as_it_is_one() {
        let name = |text: &str| find(text).ok().map(|command| command.name);
        assert_eq!(name("sessions"), Some("sessions"));
        assert_eq!(name("session"), Some("session"));
        assert_eq!(name("cont"), Some("continue"));
        assert_eq!(name("s"), None);
        assert_eq!(name(""), None);
        assert_eq!(name("continued"), None);
    }

    #[test]
    fn who_errs_is_told_what_is_near() {
        for (name, near) in [
            ("monitor", Some("`:locks` or `:tasks` or `:findings`")),
            ("stacks", Some("`:bt`")),
            ("evaluate", Some("`:eval`")),
            ("lokcs", Some("`:locks`")),
            ("finding", None),
            ("breakpoint", None),
            ("repotr", Some("`:report`")),
            ("continued", Some("`:continue`")),
            ("xyzzy", Some("")),
            ("", Some("")),
        ] {
            let why = find(name).err().map(|error| error.message);
            match near {
                // It is a beginning.
                None => assert_eq!(why, None, "{name}"),
                Some("") => assert!(!why.unwrap_or_default().contains("did you"), "{name}"),
                Some(near) => {
                    let why = why.unwrap_or_default();
                    assert!(why.contains(&format!(", did you mean {near}?; ")), "{why}");
                }
            }
        }
    }

    #[test]
    fn every_verb_of_a_command_is_one() {
        for command in COMMANDS.iter().filter(|command| !command.verb.is_empty()) {
            assert!(control::access(command.verb).is_ok(), "{}", command.verb);
            assert!(help().contains(&format!(":{}", command.name)));
        }
    }

    #[test]
    fn only_what_begins_with_a_colon_is_a_command() {
        assert!(is_command("  :bt") && is_command(":"));
        assert!(!is_command("x[1:2]") && !is_command("") && !is_command("bt"));
    }
}
