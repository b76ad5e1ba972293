//! The `dbgproxy` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    dbgproxy::commands::run()
}
