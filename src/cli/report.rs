//! What a command has to say, for people and for machines.

use std::io::{ErrorKind, Write};

use serde_json::Value;

use super::failure::Failure;
pub use super::table::{bytes, count, digits, indent, percent, rate, table, time};

/// What a command has to say.
pub struct Report {
    /// For people.
    pub text: String,
    /// For machines.
    pub json: Value,
    /// What is wrong with the result, if anything: the exit code is then 1.
    pub wrong: Option<String>,
}

impl Report {
    /// A report with nothing wrong.
    pub fn new(text: String, json: Value) -> Report {
        Report {
            text,
            json,
            wrong: None,
        }
    }
}

/// Writes the report to stdout. A reader that has read enough (`| head`) is no failure.
pub fn print(report: &Report, json: bool) -> Result<(), Failure> {
    let text = if json {
        format!("{:#}\n", report.json)
    } else {
        report.text.clone()
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Usage(format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}
