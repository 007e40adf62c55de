//! A run of the program. In: the command line, a GPU. Out: [`Bench`], which knows what is wanted and writes what was found
//! to a file after each row, so that a run cut short loses nothing.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use selscan_runtime::{Cuda, CudaOptions, Schedule, Store, nvrtc};
use serde_json::{Map, Value, json};

use crate::Stop;
use crate::measure::copy_bandwidth;

/// Timed calls.
const REPEATS: usize = 25;
/// The same in a hurry.
const FEW: usize = 7;
/// How long a shape is tuned where that is not said.
const TUNE: f64 = 6.0;

pub const TABLES: [&str; 6] = ["compile", "main", "states", "lengths", "backward", "step"];

pub const HELP: &str = "\
selscan on a CUDA GPU, timed. Options:
  --only TABLE      main, states, lengths, backward, step or compile (several: with commas)
  --filter TEXT     only rows with TEXT in their label, `main bf16 B8 L2048 D2048 N16 bdl` for example
  --tune [SECONDS]  also the schedule that tuning for so long finds (6), for main, states and lengths
  --schedule TEXT   this schedule in place of the default, for main, states, lengths and backward
  --quick           fewer shapes, 7 calls in place of 25
  --out FILE        write what was measured as JSON, for mamba.py --compare and plot.py
  --minutes M       rows that would begin later are skipped (8)
  --device N        which GPU (0)
  --commit TEXT     the commit, for the report (else the environment variable SELSCAN_COMMIT at build time)";

/// What the command line says.
#[derive(Debug)]
pub struct Settings {
    pub only: Vec<String>,
    pub filter: Option<String>,
    pub tune: Option<Duration>,
    pub schedule: Option<Schedule>,
    pub quick: bool,
    pub out: Option<PathBuf>,
    pub minutes: f64,
    pub device: u32,
    pub commit: String,
    /// The test runner is at work: nothing is to be measured.
    pub test: bool,
    pub help: bool,
}

impl Settings {
    /// The settings of some arguments.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Settings, Stop> {
        let mut own = Settings {
            only: Vec::new(),
            filter: None,
            tune: None,
            schedule: None,
            quick: false,
            out: None,
            minutes: 8.0,
            device: 0,
            commit: option_env!("SELSCAN_COMMIT")
                .unwrap_or("unknown")
                .to_owned(),
            test: false,
            help: false,
        };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let name = argument.to_string_lossy().into_owned();
            let number = |text: &str| {
                let parsed = text.parse::<f64>().ok();
                parsed
                    .filter(|x| x.is_finite() && *x >= 0.0)
                    .ok_or_else(|| Stop::Usage(format!("{name} takes a number, not `{text}`")))
            };
            match name.as_str() {
                // What cargo passes.
                "--bench" => continue,
                "--test" | "--list" => own.test = true,
                "--help" | "-h" => own.help = true,
                "--quick" => own.quick = true,
                "--tune" => {
                    let next = arguments.peek().map(|a| a.to_string_lossy().into_owned());
                    let said = next.filter(|text| !text.starts_with("--"));
                    let seconds = said.as_deref().map_or(Ok(TUNE), number)?;
                    if said.is_some() {
                        arguments.next();
                    }
                    own.tune = Some(Duration::from_secs_f64(seconds.min(1e6)));
                }
                "--only" | "--filter" | "--schedule" | "--out" | "--minutes" | "--device"
                | "--commit" => {
                    let Some(value) = arguments.next() else {
                        return Err(Stop::Usage(format!("{name} takes a value")));
                    };
                    let text = value.to_string_lossy().into_owned();
                    match name.as_str() {
                        "--only" => own.only = tables(&text)?,
                        "--filter" => own.filter = Some(text),
                        "--schedule" => {
                            let parsed = text.parse().map_err(|why| {
                                Stop::Usage(format!("`{text}` is no schedule: {why}"))
                            });
                            own.schedule = Some(parsed?);
                        }
                        "--out" => own.out = Some(value.into()),
                        "--minutes" => own.minutes = number(&text)?,
                        "--device" => own.device = number(&text)? as u32,
                        _ => own.commit = text,
                    }
                }
                _ => return Err(Stop::Usage(format!("unknown argument `{name}`\n{HELP}"))),
            }
        }
        if own.tune.is_some() && own.schedule.is_some() {
            let why = "--tune looks for what --schedule says: leave one out";
            return Err(Stop::Usage(why.to_owned()));
        }
        Ok(own)
    }
}

/// The tables that a list names.
fn tables(text: &str) -> Result<Vec<String>, Stop> {
    let names = text.split(',').map(|name| match name.trim() {
        name if TABLES.contains(&name) => Ok(name.to_owned()),
        name => Err(Stop::Usage(format!(
            "there is no table `{name}`; the tables are {}",
            TABLES.join(", ")
        ))),
    });
    names.collect()
}

/// A GPU, and what was found on it so far.
pub struct Bench {
    pub settings: Settings,
    /// It remembers nothing on disk: the default schedule is the default.
    pub cuda: Cuda,
    /// Bytes a second of a copy, read and written ones.
    pub bandwidth: f64,
    started: Instant,
    report: Map<String, Value>,
}

impl Bench {
    /// The GPU; why it can't be used, in words.
    pub fn open(settings: &Settings) -> Result<Cuda, String> {
        let cuda = Cuda::with_options(CudaOptions {
            ordinal: settings.device,
            store: Some(Store::none()),
        });
        let cuda = cuda.map_err(|why| format!("no CUDA device: {why}"))?;
        nvrtc::version().map_err(|why| why.to_string())?;
        Ok(cuda)
    }

    /// Measures the memory and says what there is.
    pub fn new(settings: Settings, cuda: Cuda) -> Result<Bench, Stop> {
        let started = Instant::now();
        let bandwidth = copy_bandwidth(&cuda, REPEATS)?;
        let target = cuda.target().clone();
        let (date, nvrtc) = (date(), nvrtc::version()?);
        let module = kernel_module().unwrap_or_else(|| "unknown".to_owned());
        let (multiprocessors, clock) = match &target.gpu {
            Some(gpu) => (gpu.multiprocessors, gpu.clock_khz / 1000),
            None => (0, 0),
        };
        println!(
            "selscan {} ({}), {date} UTC\n{}, kernel module {module}, NVRTC {}.{}\n\
             {multiprocessors} multiprocessors at {clock} MHz, L2 {} MB, copy {:.2} TB/s (bytes read and written)",
            env!("CARGO_PKG_VERSION"),
            settings.commit,
            target.name,
            nvrtc.0,
            nvrtc.1,
            target.l2 >> 20,
            bandwidth / 1e12,
        );
        let report = json!({
            "date": date, "commit": settings.commit, "device": target.name, "kernel_module": module,
            "nvrtc": format!("{}.{}", nvrtc.0, nvrtc.1), "l2_bytes": target.l2, "multiprocessors": multiprocessors,
            "clock_mhz": clock, "copy_bytes_per_s": bandwidth, "rows": [], "steps": [], "compile": [], "skipped": [],
        });
        let Value::Object(report) = report else {
            unreachable!("an object was written here");
        };
        Ok(Bench {
            settings,
            cuda,
            bandwidth,
            started,
            report,
        })
    }

    /// Whether a table is wanted.
    pub fn has(&self, name: &str) -> bool {
        let only = &self.settings.only;
        only.is_empty() || only.iter().any(|n| n == name)
    }

    /// Whether a row is wanted, and there is time for it.
    pub fn wants(&mut self, label: &str) -> Result<bool, Stop> {
        if !label.contains(self.settings.filter.as_deref().unwrap_or("")) {
            return Ok(false);
        }
        let late = self.started.elapsed().as_secs_f64() > 60.0 * self.settings.minutes;
        if late {
            self.skip(label, "the time for this run is used up")?;
        }
        Ok(!late)
    }

    /// How often a call is timed.
    pub fn repeats(&self) -> usize {
        if self.settings.quick { FEW } else { REPEATS }
    }

    /// Says how far it is.
    pub fn say(&self, what: &str) {
        eprintln!("[{:6.1} s] {what}", self.started.elapsed().as_secs_f64());
    }

    /// Notes a row that was not measured.
    pub fn skip(&mut self, label: &str, why: &str) -> Result<(), Stop> {
        println!("skipped {label}: {why}");
        self.row("skipped", json!({ "row": label, "why": why }))
    }

    /// Notes a row.
    pub fn row(&mut self, list: &str, row: Value) -> Result<(), Stop> {
        if let Some(Value::Array(rows)) = self.report.get_mut(list) {
            rows.push(row);
        }
        let Some(path) = &self.settings.out else {
            return Ok(());
        };
        let text = format!("{:#}\n", Value::Object(self.report.clone()));
        std::fs::write(path, text)
            .map_err(|e| Stop::Usage(format!("cannot write {}: {e}", path.display())))
    }
}

/// The version of NVIDIA's kernel module, where the system tells it.
fn kernel_module() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let version =
        |word: &&str| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let mut words = text.lines().next()?.split_whitespace();
    words.find(version).map(str::to_owned)
}

/// The date and time now: `2026-11-22 09:30`.
fn date() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |d| d.as_secs());
    let (mut year, mut day) = (1970, seconds / 86_400);
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let minutes = seconds / 60 % 1440;
    format!(
        "{year}-{:02}-{:02} {:02}:{:02}",
        month + 1,
        day + 1,
        minutes / 60,
        minutes % 60
    )
}
