//! What can be said on the command line. In: the process's arguments. Out: [`Cli`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use selscan_codegen::{Dtype, Schedule};
use selscan_runtime::DeviceName;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, and every number that was checked is right
  1  a result differs from the f64 meaning by more than the tolerance
  2  wrong usage or input: arguments, kernel text, tensors, files
  3  a bug in selscan, or a machine that it makes no code for

Environment:
  SELSCAN_CACHE_DIR  the folder of tuned schedules and of code compiled for GPUs
  SELSCAN_NVRTC      NVRTC's library, or a folder that it is in (kernels for GPUs are compiled with it)
  RUST_LOG           what to log on stderr, for example `debug`";

const EXAMPLES: &str = "\
Examples:
  selscan run                                  Mamba's selective scan, checked and timed
  selscan run scan.rs --input x.safetensors --output y.safetensors
  selscan explain scan.rs                      what a kernel becomes, on one page
  selscan explain selective_scan --stage loops
  selscan tune selective_scan --shape L=4096   find the fastest schedule and remember it
  selscan bench --filter mamba
  selscan selftest --device cuda:0             every model on the GPU, compared with its meaning
  selscan list

";

/// The command line.
#[derive(Parser, Debug)]
#[command(
    name = "selscan",
    version,
    about = "A compiler for state-space recurrences: one line of math in, one fused kernel out",
    after_help = [EXAMPLES, EXIT_CODES].concat(),
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print one JSON document on stdout and nothing else there
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Compile a kernel for this machine and run it: on a file's tensors, or on made-up data, checked and timed
    ///
    /// Without --input the data is made up (the same in every run), the result is compared with the f64 meaning, and
    /// the kernel is timed. With --input every tensor is taken by its name: inputs under their own names, the state
    /// `h` before the first step as `initial_h` (or `initial_state` where the kernel has one state), packed
    /// sequences as `seq_idx`. --output gets the outputs under their names (`out`, or `out0`, `out1`, ...) and the
    /// state `h` after the last step as `last_h`. A complex tensor has a trailing dimension of 2: (re, im). Names that
    /// differ in upper and lower case only are the same where that is not ambiguous.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Show what a kernel becomes: as written, as a scan with its class, as loops, as machine code
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(Box<ExplainArgs>),
    /// Time every schedule worth trying for a kernel and a shape, and remember the fastest one that is right
    #[command(after_help = TUNE_EXAMPLES)]
    Tune(Box<TuneArgs>),
    /// Time the catalogue
    ///
    /// Each model at its typical extents; on the CPU beside the same kernel in scalar code (lanes=1), and Mamba's selective
    /// scan also beside plain scalar Rust; on a GPU beside what its memory and its exponential unit allow.
    Bench(BenchArgs),
    /// Run every model of the catalogue on a device and compare with the f64 meaning
    ///
    /// Every element type, every kind of schedule, odd and empty shapes, initial states and packed sequences. Each run is
    /// into memory full of NaN, and made twice: the numbers must be the same to the last bit.
    #[command(after_help = SELFTEST_EXAMPLES)]
    Selftest(SelftestArgs),
    /// List the catalogue: models, their sources, classes and algorithms
    List,
}

const RUN_EXAMPLES: &str = "\
Examples:
  selscan run
  selscan run selective_scan --shape B=2,L=512 --threads 1
  selscan run scan.rs --input x.safetensors --output y.safetensors
  selscan run scan.rs --input x.safetensors --output y64.safetensors --eval
  selscan run scan.rs --input x.safetensors --check full
  selscan run scan.rs --shape B=1,L=1000,D=64,N=16 --range a=-1..-0.1 --without z
  selscan run --device cuda:0 --dtype bf16";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  selscan explain scan.rs --shape B=1,L=2048,D=1536,N=16
  selscan explain selective_scan --stage scan
  selscan explain rwkv6 --stage asm
  selscan explain selective_scan --stage cuda
  selscan explain selective_scan --grad
  selscan explain gru --grad=x,h --stage recurrence";

const TUNE_EXAMPLES: &str = "\
Examples:
  selscan tune selective_scan
  selscan tune scan.rs --shape B=1,L=65536,D=64,N=16 --threads 2
  selscan tune --device cuda:0 --dtype bf16 --report tuned.json --plot tuned.svg";

const SELFTEST_EXAMPLES: &str = "\
Examples:
  selscan selftest
  selscan selftest --device cuda:0 --quick
  selscan selftest --device cpu --filter mamba";

/// Which kernel, and how it is called.
#[derive(Args, Clone, Debug)]
pub struct KernelArgs {
    /// The name of a model (`selscan list`) or a file of kernels
    #[arg(value_name = "NAME|FILE.rs", default_value = "selective_scan")]
    pub source: String,
    /// Which kernel of a file that has several
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
    /// Extents of made-up data by axis; others keep their typical extent
    #[arg(long, value_name = "AXIS=N,..", value_delimiter = ',', value_parser = extent)]
    pub shape: Vec<(String, usize)>,
    /// Optional inputs and flags to leave out of made-up data
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub without: Vec<String>,
    /// Where the values of a made-up input lie
    #[arg(long, value_name = "NAME=LOW..HIGH", value_parser = range, allow_hyphen_values = true)]
    pub range: Vec<(String, f64, f64)>,
    /// The type of tensors: f32, f64, bf16 or f16 [default: f32, or as in the input file]
    #[arg(long, value_parser = dtype)]
    pub dtype: Option<Dtype>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Where kernels run.
#[derive(Args, Clone, Copy, Default, Debug)]
pub struct DeviceArgs {
    /// Where kernels run [default: the first GPU if there is one, else the CPU]
    #[arg(long, value_name = "cpu|cuda:N")]
    pub device: Option<DeviceName>,
    /// Threads of the CPU, which then is the device [default: all]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl KernelArgs {
    /// A model of the catalogue, called as is typical.
    pub fn of_model(name: &str, device: DeviceArgs) -> KernelArgs {
        KernelArgs {
            source: name.to_owned(),
            kernel: None,
            shape: vec![],
            without: vec![],
            range: vec![],
            dtype: None,
            device,
        }
    }
}

/// A schedule to use.
#[derive(Args, Clone, Debug)]
pub struct ScheduleArgs {
    /// The schedule, in place of the tuned or the default one, for example
    /// 'sequential order=tiled lanes=4 block=2 tile=64 unroll=4'
    #[arg(long, value_name = "SCHEDULE")]
    pub schedule: Option<Schedule>,
}

/// `selscan run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub kernel: KernelArgs,
    #[command(flatten)]
    pub schedule: ScheduleArgs,
    /// A safetensors file with the inputs
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// The safetensors file to write outputs and last states to
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Flags that are given, with --input
    #[arg(
        long,
        value_name = "NAME,..",
        value_delimiter = ',',
        requires = "input"
    )]
    pub flag: Vec<String>,
    /// Take the f64 meaning in place of the compiled kernel
    #[arg(long, conflicts_with_all = ["schedule", "check"])]
    pub eval: bool,
    /// How much to compare with the f64 meaning [default: sample of made-up data, none of a file's]
    #[arg(long, value_enum)]
    pub check: Option<CheckArg>,
}

/// How much of a result is compared with the f64 meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum CheckArg {
    /// Nothing
    None,
    /// All of it where that takes about a second, else evenly spread points of the parallel axes, over all of time
    Sample,
    /// Every element
    Full,
}

/// `selscan explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub kernel: KernelArgs,
    #[command(flatten)]
    pub schedule: ScheduleArgs,
    /// Print one stage of the compiler whole
    #[arg(long, value_enum)]
    pub stage: Option<Stage>,
    /// Explain the gradients instead: by these inputs and initial states [default: by all]
    #[arg(long, value_name = "NAME,..", num_args = 0..=1, require_equals = true, value_delimiter = ',')]
    pub grad: Option<Vec<String>>,
}

/// The stages of the compiler.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Stage {
    /// What is computed, as written
    Recurrence,
    /// Specialised, simplified, classified
    Scan,
    /// Every decision
    Plan,
    /// The loops
    Loops,
    /// The CPU code generator's input
    Clif,
    /// The CPU's machine code
    Asm,
    /// The GPU's CUDA C (for an H200 where there is no GPU)
    Cuda,
}

/// `selscan tune`.
#[derive(Args, Debug)]
pub struct TuneArgs {
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Write all that was measured to a file, as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Draw the time of every schedule, and what the device allows, to a file
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// `selscan selftest`.
#[derive(Args, Debug)]
pub struct SelftestArgs {
    /// Models whose name or source contains this, whatever the case
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Fewer types, schedules and shapes
    #[arg(long)]
    pub quick: bool,
    /// Instead, a few models with tensors of more than 2^31 elements, on a GPU with 40 GB
    #[arg(long, conflicts_with = "quick")]
    pub large: bool,
    /// Instead, the gradients of every model
    #[arg(long, conflicts_with = "large")]
    pub gradients: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `selscan bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Models whose name or source contains this, whatever the case
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Use the small extents of the tests: quick, and no measure of speed
    #[arg(long)]
    pub small: bool,
}

fn extent(text: &str) -> Result<(String, usize), String> {
    let wanted = "wanted AXIS=N, for example L=2048";
    let (axis, number) = text.split_once('=').ok_or(wanted)?;
    let number = number
        .trim()
        .parse()
        .map_err(|_| format!("'{number}' is no extent; {wanted}"))?;
    Ok((axis.trim().to_owned(), number))
}

fn range(text: &str) -> Result<(String, f64, f64), String> {
    let parse = || {
        let (name, range) = text.split_once('=')?;
        let (low, high) = range.split_once("..")?;
        let (low, high) = (
            low.trim().parse::<f64>().ok()?,
            high.trim().parse::<f64>().ok()?,
        );
        let ordered = low <= high && low.is_finite() && high.is_finite();
        ordered.then(|| (name.trim().to_owned(), low, high))
    };
    parse().ok_or_else(|| "wanted NAME=LOW..HIGH, for example a=-1..-0.1".to_owned())
}

fn dtype(text: &str) -> Result<Dtype, String> {
    Dtype::from_name(text).ok_or_else(|| "wanted f32, f64, bf16 or f16".to_owned())
}
