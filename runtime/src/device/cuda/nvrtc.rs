//! CUDA C to machine code, by NVRTC: needs neither a GPU nor a toolkit nor headers.
//!
//! In: a text and a compute capability. Out: [`Compiled`], the CUBIN and what each function of it takes of a
//! multiprocessor, as the assembler reports it.

use std::ffi::{CStr, CString, c_int};

use serde::{Deserialize, Serialize};

use super::library::{self, Get, Nvrtc, Program, Size};
use super::ptx;
use crate::error::Error;

/// The first version of NVRTC that uses the driver's cache ("Caching (CUDA 12.9+)", NVRTC's user guide).
const FIRST_WITH_A_CACHE: (u32, u32) = (12, 9);

/// Machine code for GPUs of one compute capability.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The code, an ELF file.
    pub cubin: Vec<u8>,
    /// What the compiler and the assembler said.
    pub log: String,
    /// What each function takes, in the order of the log.
    pub functions: Vec<Resources>,
    /// The version of NVRTC that made it.
    pub version: (u32, u32),
}

/// What a function takes of a multiprocessor.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Its name.
    pub name: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of registers written to memory for want of more, per thread.
    pub spill_stores: u32,
    /// Bytes of them read back.
    pub spill_loads: u32,
    /// Bytes of a thread's stack frame: arrays indexed at run time, and spills.
    pub stack_frame: u32,
    /// Static shared memory of a block, bytes.
    pub shared: u32,
}

/// Whether NVRTC is found.
#[must_use]
pub fn available() -> bool {
    library::nvrtc().is_ok()
}

/// NVRTC's version.
///
/// # Errors
/// [`Error::NoNvrtc`] if it is not found, with where it was looked for.
pub fn version() -> Result<(u32, u32), Error> {
    Ok(library::nvrtc()?.version)
}

/// The options that a version of NVRTC compiles a text with, for a compute capability (90 for sm_90).
pub(crate) fn options(capability: u32, version: (u32, u32)) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture=sm_{capability}"),
        "--std=c++17".to_owned(),
        "--ptxas-options=-v".to_owned(),
        "-default-device".to_owned(),
    ];
    // What the driver's cache holds comes without the assembler's words, from which `Resources` are.
    if version >= FIRST_WITH_A_CACHE {
        options.push("--no-cache".to_owned());
    }
    options
}

/// Compiles a text for GPUs of a compute capability (90 for sm_90).
///
/// # Errors
/// [`Error::NoNvrtc`]; [`Error::NvrtcTarget`] if NVRTC does not know the capability; [`Error::Nvrtc`] with the
/// compiler's log if it refuses the text; [`Error::LostAddress`] if it makes code that no GPU may run.
pub fn compile(text: &str, capability: u32) -> Result<Compiled, Error> {
    let nvrtc = library::nvrtc()?;
    check_target(nvrtc, capability)?;
    let refused = |why: String, log: String| Error::Nvrtc {
        nvrtc: nvrtc.version,
        why,
        log,
    };
    let nul = |_| refused("it has a NUL byte".to_owned(), String::new());
    let text = CString::new(text).map_err(nul)?;
    let mut program = Compiling {
        nvrtc,
        program: std::ptr::null_mut(),
    };
    // SAFETY: both texts end in NUL; there are no headers, so their lists may be null.
    let created = unsafe {
        (nvrtc.create)(
            &raw mut program.program,
            text.as_ptr(),
            c"selscan.cu".as_ptr(),
            0,
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    program
        .check(created)
        .map_err(|why| refused(why, String::new()))?;
    let options: Vec<CString> = options(capability, nvrtc.version)
        .into_iter()
        .map(|o| CString::new(o).map_err(nul))
        .collect::<Result<_, _>>()?;
    let pointers: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
    // SAFETY: `pointers` has that many texts, which end in NUL and outlive the call.
    let compiled =
        unsafe { (nvrtc.compile)(program.program, pointers.len() as c_int, pointers.as_ptr()) };
    let log = program.log();
    let made = program.check(compiled).and_then(|()| program.cubin());
    let cubin = made.map_err(|why| refused(why, log.clone()))?;
    if let Some(register) = ptx::unwritten(&program.ptx()) {
        return Err(Error::LostAddress {
            nvrtc: nvrtc.version,
            register: register.to_owned(),
        });
    }
    Ok(Compiled {
        cubin,
        functions: functions(&log),
        log,
        version: nvrtc.version,
    })
}

/// Whether NVRTC makes code for a compute capability.
fn check_target(nvrtc: &Nvrtc, wanted: u32) -> Result<(), Error> {
    let mut count = 0;
    // SAFETY: it writes one integer.
    unsafe { (nvrtc.arch_count)(&raw mut count) };
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: it writes `count` integers.
    unsafe { (nvrtc.archs)(known.as_mut_ptr()) };
    if known.iter().any(|&k| u32::try_from(k) == Ok(wanted)) {
        return Ok(());
    }
    let known: Vec<String> = known
        .iter()
        .map(|k| format!("{}.{}", k / 10, k % 10))
        .collect();
    Err(Error::NvrtcTarget {
        nvrtc: nvrtc.version,
        wanted,
        known: known.join(", "),
    })
}

/// A program of NVRTC's, freed at the end.
struct Compiling<'n> {
    nvrtc: &'n Nvrtc,
    program: Program,
}

impl Drop for Compiling<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: made by `create`, and nothing points into it.
            unsafe { (self.nvrtc.destroy)(&raw mut self.program) };
        }
    }
}

impl Compiling<'_> {
    /// A result in words.
    fn check(&self, result: c_int) -> Result<(), String> {
        if result == 0 {
            return Ok(());
        }
        // SAFETY: for any number it gives a text that lives as long as the library.
        let text = unsafe { CStr::from_ptr((self.nvrtc.error)(result)) };
        Err(text.to_string_lossy().into_owned())
    }

    /// What a pair of functions gives of the program: how many bytes, and the bytes.
    fn bytes(&self, size: Size, get: Get) -> Result<Vec<u8>, String> {
        let mut len = 0;
        // SAFETY: it writes one size.
        self.check(unsafe { size(self.program, &raw mut len) })?;
        let mut bytes = vec![0u8; len];
        if len > 0 {
            // SAFETY: it writes `len` bytes.
            self.check(unsafe { get(self.program, bytes.as_mut_ptr().cast()) })?;
        }
        Ok(bytes)
    }

    /// A text, which ends in NUL; none if it is not given.
    fn text(&self, size: Size, get: Get) -> String {
        let text = self.bytes(size, get).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .trim_end_matches(['\0', '\n'])
            .to_owned()
    }

    fn log(&self) -> String {
        self.text(self.nvrtc.log_size, self.nvrtc.log)
    }

    fn ptx(&self) -> String {
        self.text(self.nvrtc.ptx_size, self.nvrtc.ptx)
    }

    fn cubin(&self) -> Result<Vec<u8>, String> {
        let cubin = self.bytes(self.nvrtc.cubin_size, self.nvrtc.cubin)?;
        if cubin.is_empty() {
            return Err("it made no machine code".to_owned());
        }
        Ok(cubin)
    }
}

/// What the assembler says of each function. A line that is not understood is passed over: only reports read this.
fn functions(log: &str) -> Vec<Resources> {
    let mut all: Vec<Resources> = Vec::new();
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            all.push(Resources {
                name: rest.split('\'').next().unwrap_or_default().to_owned(),
                ..Resources::default()
            });
        }
        let Some(own) = all.last_mut() else { continue };
        for part in line.rsplit(" : ").next().unwrap_or(line).split(',') {
            let words: Vec<&str> = part.split_whitespace().collect();
            let number = words.iter().find_map(|w| w.parse::<u32>().ok());
            let (Some(number), ends) = (number, |end: &[&str]| words.ends_with(end)) else {
                continue;
            };
            match () {
                () if ends(&["bytes", "stack", "frame"]) => own.stack_frame = number,
                () if ends(&["bytes", "spill", "stores"]) => own.spill_stores = number,
                () if ends(&["bytes", "spill", "loads"]) => own.spill_loads = number,
                () if ends(&["registers"]) => own.registers = number,
                () if ends(&["bytes", "smem"]) => own.shared = number,
                () => {}
            }
        }
    }
    all
}

/// Whether NVRTC is there for tests. If not, says so, once and past the test runner's capture of output.
#[cfg(test)]
pub(super) fn tests_can_run() -> bool {
    use std::io::Write;
    static SAID: std::sync::Once = std::sync::Once::new();
    let found = library::nvrtc();
    if let Err(why) = &found {
        SAID.call_once(|| {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: NVRTC is not installed, so nothing is compiled for GPUs: {why}"
            );
        });
    }
    found.is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k2' for 'sm_90'
ptxas info    : Function properties for k2
ptxas         .     800 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 800 bytes cumulative stack size
ptxas info    : Compile time = 19.358 ms
ptxas info    : Compiling entry function 'k' for 'sm_90'
ptxas info    : Function properties for k
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 14 registers, used 1 barriers, 128 bytes smem, 380 bytes cmem[0]
";

    #[test]
    fn the_assemblers_report_is_read() {
        let k2 = Resources {
            name: "k2".into(),
            registers: 32,
            spill_stores: 12,
            spill_loads: 16,
            stack_frame: 800,
            shared: 0,
        };
        let k = Resources {
            name: "k".into(),
            registers: 14,
            shared: 128,
            ..Resources::default()
        };
        assert_eq!(functions(LOG), [k2, k]);
        assert_eq!(functions("what is this, 7 registers"), []);
        assert_eq!(
            functions("Compiling entry function '"),
            [Resources::default()]
        );
    }

    #[test]
    fn a_text_becomes_machine_code() {
        if !tests_can_run() {
            return;
        }
        let text = "
            extern \"C\" __global__ void __launch_bounds__(128) add(float* y, const float* x, long long n) {
                __shared__ float s[32];
                long long i = blockIdx.x * 128LL + threadIdx.x;
                s[threadIdx.x % 32] = x[i];
                __syncthreads();
                if (i < n) y[i] = s[(threadIdx.x + 1) % 32] + 1.0f;
            }";
        for capability in [75, 80, 90] {
            let made = compile(text, capability).unwrap();
            assert_eq!(&made.cubin[..4], b"\x7fELF");
            let [add] = &made.functions[..] else {
                panic!("{}", made.log)
            };
            assert_eq!(
                (add.name.as_str(), add.shared),
                ("add", 128),
                "{}",
                made.log
            );
            assert!(add.registers > 0 && add.spill_stores == 0, "{}", made.log);
        }
    }

    #[test]
    fn a_text_that_is_refused_is_an_error_with_the_log() {
        if !tests_can_run() {
            return;
        }
        let error =
            compile("extern \"C\" __global__ void f() { undeclared = 1; }", 90).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("identifier \"undeclared\" is undefined"),
            "{text}"
        );
        assert!(text.contains("bug in selscan"), "{text}");
        let error = compile("", 61).unwrap_err().to_string();
        assert!(
            error.contains("makes no code for compute capability 6.1"),
            "{error}"
        );
    }
}
