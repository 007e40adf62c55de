//! The command line. In: arguments, kernel texts, safetensors files. Out: one [`Report`] a command, as text or as one
//! JSON document on stdout; progress and errors on stderr; an exit code.

mod adjoint;
mod args;
mod baseline;
mod check;
mod data;
mod explain;
mod failure;
mod files;
mod floor;
mod gradients;
mod job;
mod large;
mod list;
mod measure;
mod plot;
mod report;
mod run;
mod selftest;
mod source;
mod stages;
mod sweep;
mod table;
mod trials;
mod tune;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use failure::Failure;
use report::{Report, print};

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let json = std::env::args_os().any(|arg| arg == "--json");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() && json => return Failure::Usage(e.to_string()).report(true),
        Err(e) => e.exit(),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let done = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Explain(args) => explain::explain(args),
        Command::Tune(args) => tune::tune(args),
        Command::Bench(args) => sweep::bench(args),
        Command::Selftest(args) => selftest::selftest(args, cli.json),
        Command::List => list::list(),
    };
    match done.and_then(|report| print(&report, cli.json).map(|()| report)) {
        Ok(Report { wrong: None, .. }) => ExitCode::SUCCESS,
        Ok(Report {
            wrong: Some(why), ..
        }) => Failure::Wrong(why).report(false),
        Err(failure) => failure.report(cli.json),
    }
}
