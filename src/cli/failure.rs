//! Why a command failed, for people (stderr) and for machines (the exit code, and JSON on stdout).

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use codespan_reporting::diagnostic::{Diagnostic, Label};
use codespan_reporting::files::SimpleFile;
use codespan_reporting::term::{self, Config};
use selscan_dsl::ParseError;
use selscan_runtime::Error;
use serde_json::{Value, json};

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// A result is wrong: exit code 1.
    Wrong(String),
    /// The user's arguments or files: exit code 2.
    Usage(String),
    /// The text of a kernel: exit code 2.
    Text(Box<KernelText>),
    /// A bug, or a machine that no code can be made for: exit code 3.
    Internal(String),
}

/// A text with mistakes.
#[derive(Debug)]
pub struct KernelText {
    pub name: String,
    pub text: String,
    pub error: ParseError,
}

impl Failure {
    /// A file that can't be read or written.
    pub fn file(doing: &str, path: &Path, why: impl fmt::Display) -> Failure {
        Failure::Usage(format!("cannot {doing} {}: {why}", path.display()))
    }

    fn code(&self) -> u8 {
        match self {
            Failure::Wrong(_) => 1,
            Failure::Usage(_) | Failure::Text(_) => 2,
            Failure::Internal(_) => 3,
        }
    }

    /// Says it on stderr, and on stdout if that is to be JSON; returns the exit code.
    pub fn report(&self, json: bool) -> ExitCode {
        if json {
            let document = json!({ "error": self.json(), "exit_code": self.code() });
            // Nothing is left to be said if stdout is closed.
            let _ = writeln!(std::io::stdout(), "{document:#}");
        }
        let message = match self {
            Failure::Text(text) => text.show(),
            Failure::Wrong(why) | Failure::Usage(why) => {
                format!("error: {}\n", why.trim_end().trim_start_matches("error: "))
            }
            Failure::Internal(why) => format!("internal error: {why}\n"),
        };
        let _ = std::io::stderr().write_all(message.as_bytes());
        ExitCode::from(self.code())
    }

    fn json(&self) -> Value {
        match self {
            Failure::Wrong(why) | Failure::Usage(why) | Failure::Internal(why) => {
                json!({ "message": why })
            }
            Failure::Text(text) => {
                let each = text.error.diagnostics.iter().map(|d| {
                    json!({
                        "line": d.line, "column": d.column, "end_line": d.end_line, "end_column": d.end_column,
                        "message": d.message, "help": d.help,
                    })
                });
                json!({ "message": "the kernel's text has mistakes", "file": text.name, "diagnostics": each.collect::<Vec<_>>() })
            }
        }
    }
}

impl KernelText {
    /// Every mistake under the line that it is in.
    fn show(&self) -> String {
        let file = SimpleFile::new(&self.name, &self.text);
        let mut out = String::new();
        for mistake in &self.error.diagnostics {
            let start = offset(&self.text, mistake.line, mistake.column);
            let end = offset(&self.text, mistake.end_line, mistake.end_column).max(start);
            let diagnostic = Diagnostic::error()
                .with_message(&mistake.message)
                .with_labels(vec![Label::primary((), start..end)])
                .with_notes(vec![format!("help: {}", mistake.help)]);
            if term::emit_to_string(&mut out, &Config::default(), &file, &diagnostic).is_err() {
                out.push_str(&format!("error: {}:{mistake}\n", self.name));
            }
        }
        out
    }
}

/// The byte at a line and a column in characters, both from 1; the end of the line or text where it is shorter.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let mut start = 0;
    for (i, content) in text.split_inclusive('\n').enumerate() {
        if i + 1 == line.max(1) {
            let content = content.trim_end_matches(['\n', '\r']);
            let within = content.char_indices().nth(column.max(1) - 1);
            return start + within.map_or(content.len(), |(at, _)| at);
        }
        start += content.len();
    }
    text.len()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Jit { .. }
            | Error::Unbound { .. }
            | Error::Panicked { .. }
            | Error::Host(_)
            | Error::Nvrtc { .. }
            | Error::LostAddress { .. }
            | Error::Cuda { .. } => Failure::Internal(error.to_string()),
            Error::Untunable { .. } => Failure::Wrong(error.to_string()),
            _ => Failure::Usage(error.to_string()),
        }
    }
}

impl From<selscan_dsl::EvalError> for Failure {
    fn from(error: selscan_dsl::EvalError) -> Failure {
        Failure::Usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_count_characters() {
        let text = "αβ\r\nx = y\n";
        assert_eq!(offset(text, 1, 2), 2);
        assert_eq!(offset(text, 1, 9), 4);
        assert_eq!(offset(text, 2, 5), 10);
        assert_eq!(offset(text, 7, 1), text.len());
        assert_eq!(offset("", 0, 0), 0);
    }
}
