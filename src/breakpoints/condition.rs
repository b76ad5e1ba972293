//! The condition of a breakpoint that several clients share: a call of the helper in the process, which asks each part.
//!
//! This module knows how Python writes texts, and not why these parts are together.

use std::fmt::Display;

use serde_json::Value;

use super::breakpoint::Breakpoint;

/// The condition that asks each of several parts by itself.
pub(super) fn asking<Owner: Display>(parts: &[(Owner, &Breakpoint)]) -> String {
    let parts: Vec<String> = parts
        .iter()
        .map(|(owner, part)| python_part(owner, part))
        .collect();
    format!(
        "__import__('_dbgproxy').hit([{}], globals(), locals())",
        parts.join(", ")
    )
}

/// `[key, condition, hitCondition, logMessage]` as a Python list.
fn python_part(owner: impl Display, part: &Breakpoint) -> String {
    // A JSON string is a Python string literal too, and null is the one word that differs.
    let literal = |text: &Option<String>| {
        text.as_ref()
            .map_or("None".into(), |text| Value::from(text.as_str()).to_string())
    };
    format!(
        "[\"{owner}:{}\", {}, {}, {}]",
        part.id,
        literal(&part.condition),
        literal(&part.hit_condition),
        literal(&part.log_message)
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use serde_json::json;

    use super::*;

    /// Text that would break out of a string literal that is written carelessly.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            select(vec![
                "",
                "'",
                "\"",
                "'''",
                "\"\"\"",
                "\\",
                "\\\\\"",
                "\\N{BULLET}",
                "\\x41\\u0041\\101",
                "a\nb\r\nc\rd\te\u{b}\u{c}",
                "\0",
                "\u{1}\u{1f}\u{7f}\u{80}\u{85}\u{9f}",
                "\u{2028}\u{2029}\u{feff}\u{fffd}\u{fffe}\u{ffff}",
                "\u{d7ff}\u{e000}",
                "🐍\u{10000}\u{10ffff}",
                "{x!r:>{width}} %s $y",
                "], globals(), locals()) or True #",
                "None",
            ])
            .prop_map(String::from),
            any::<String>(),
            vec(
                select(vec![
                    '\\', '"', '\'', '\n', '\r', '\0', 'n', 'u', '0', '🐍', '{'
                ]),
                0..12
            )
            .prop_map(|characters| characters.into_iter().collect()),
        ]
    }

    #[test]
    fn python_reads_what_we_write() {
        let python = ["python3", "python"]
            .into_iter()
            .find(|name| Command::new(name).arg("--version").output().is_ok());
        let python = python.expect("there is a Python to ask");

        let part = [text(), text(), text()].map(proptest::option::of);
        let line = vec(part, 2..5);
        let mut runner = TestRunner::deterministic();
        let mut conditions = Vec::new();
        let mut expected = Vec::new();
        while conditions.len() < 500 {
            let parts = line
                .new_tree(&mut runner)
                .expect("nothing is rejected")
                .current();
            let breakpoints: Vec<Breakpoint> = parts
                .iter()
                .map(|[condition, hit, log]| {
                    let one = json!({ "line": 1, "condition": condition, "hitCondition": hit, "logMessage": log });
                    let mut breakpoint: Breakpoint = serde_json::from_value(one).expect("it is one");
                    breakpoint.id = 1;
                    breakpoint
                })
                .collect();
            let of_owners: Vec<(i32, &Breakpoint)> = (1..).zip(&breakpoints).collect();
            conditions.push(asking(&of_owners));
            let rows = parts.iter().zip(1..);
            expected.push(
                rows.map(|([condition, hit, log], owner)| {
                    json!([format!("{owner}:1"), condition, hit, log])
                })
                .collect::<Value>(),
            );
        }

        // The condition is one call, and its first argument is data.
        let program = r#"
import ast, json, sys
out = []
for text in json.loads(sys.stdin.buffer.read()):
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call) and len(call.args) == 3, text
    assert ast.unparse(call.func) == "__import__('_dbgproxy').hit", text
    assert [ast.unparse(arg) for arg in call.args[1:]] == ["globals()", "locals()"], text
    out.append(ast.literal_eval(call.args[0]))
sys.stdout.write(json.dumps(out))
"#;
        let mut child = Command::new(python)
            .args(["-I", "-c", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let input = json!(conditions).to_string();
        let mut stdin = child.stdin.take().expect("it is a pipe");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        let read: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it answers");
        assert_eq!(read, expected);
    }
}
