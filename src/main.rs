//! The `selscan` command line: see `selscan --help`, and [`cli`].

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
