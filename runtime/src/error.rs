//! Everything that can go wrong between a kernel's text and its results, each with what was wanted, what was
//! found and what to do.

use std::path::PathBuf;

use selscan_codegen::Dtype;

/// Why a kernel was not compiled or not run. Nothing was written unless [`Error::Panicked`] says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each message names the fields
pub enum Error {
    /// A name that the kernel's text does not declare, or declares as something else.
    #[error("kernel `{kernel}` has no {what} `{name}`; {}", suggestion(.nearest, .known))]
    Unknown {
        kernel: String,
        what: &'static str,
        name: String,
        nearest: Option<String>,
        known: Vec<String>,
    },
    /// An argument that was not passed.
    #[error("kernel `{kernel}` needs its {what} `{name}: {ty}`; {remedy}")]
    Missing {
        kernel: String,
        what: &'static str,
        name: String,
        ty: String,
        remedy: String,
    },
    /// An argument that was passed more than once.
    #[error("the {what} `{name}` was passed twice; pass it once")]
    Twice { what: &'static str, name: String },
    /// A flag passed as a tensor, or a tensor passed as a flag.
    #[error("`{name}` of kernel `{kernel}` is a {is}; pass it with `.{method}`")]
    Kind {
        kernel: String,
        name: String,
        is: &'static str,
        method: String,
    },
    /// A gradient that cannot be had of what was given.
    #[error("no gradient of kernel `{kernel}`: {why}")]
    Gradient { kernel: String, why: String },
    /// A slice that is not as long as its shape.
    #[error(
        "the shape {shape:?} has {wanted} elements, but the slice has {found}; pass all of the tensor's elements, or \
         the shape that the slice has (a complex tensor has a trailing dimension of 2)"
    )]
    Length {
        shape: Vec<usize>,
        wanted: usize,
        found: usize,
    },
    /// A view that is not contiguous.
    #[error(
        "the view of shape {shape:?} has strides {strides:?}, but kernels take contiguous row-major tensors, strides \
         {wanted:?}; copy it into contiguous memory first (`.contiguous()`, `.as_standard_layout()`), or declare the \
         kernel's tensor with its axes in the order that they have in memory"
    )]
    Layout {
        shape: Vec<usize>,
        strides: Vec<usize>,
        wanted: Vec<usize>,
    },
    /// A complex tensor without its pairs.
    #[error(
        "the {what} `{name}` is complex, so its shape ends in a dimension of 2 (re, im), but it is {found:?}; pass \
         interleaved pairs with the shape [{axes}, 2]"
    )]
    Pairs {
        what: &'static str,
        name: String,
        axes: String,
        found: Vec<usize>,
    },
    /// A shape that does not fit the others.
    #[error("kernel `{kernel}`: {source}")]
    Shape {
        kernel: String,
        source: Box<selscan_dsl::ShapeError>,
    },
    /// An output, last state or boundary tensor whose shape is not what the inputs make it.
    #[error(
        "the {what} `{name}` has the shape {found:?}, but its axes [{axes}] make it {wanted:?}; pass {wanted:?}"
    )]
    Extents {
        what: &'static str,
        name: String,
        axes: String,
        wanted: Vec<usize>,
        found: Vec<usize>,
    },
    /// An element type that does not fit the others.
    #[error("the {what} `{name}` is {found}, but {why} {wanted}; convert one of them")]
    Dtype {
        what: &'static str,
        name: String,
        wanted: Dtype,
        found: Dtype,
        why: String,
    },
    /// An output in memory that another argument has.
    #[error(
        "the {what} `{name}` lies in the memory of the {other_what} `{other}`; give it memory of its own (only a state \
         may be updated in place: `state_in_place`)"
    )]
    Overlap {
        what: &'static str,
        name: String,
        other_what: &'static str,
        other: String,
    },
    /// A size that 64 bits do not hold.
    #[error(
        "{what} is larger than an address space; split the batch or the channels into several launches"
    )]
    TooLarge { what: String },
    /// Memory that the system did not give.
    #[error(
        "this machine did not give {bytes} bytes of memory; split the batch or the channels into several launches"
    )]
    OutOfMemory { bytes: usize },
    /// A kernel text with mistakes.
    #[error(transparent)]
    Parse(#[from] selscan_dsl::ParseError),
    /// A schedule that does not fit the recurrence, its shape or the machine.
    #[error(transparent)]
    Refused(#[from] selscan_codegen::Refusal),
    /// A bug of the compiler: loops that break their own grammar, or code that the JIT does not take.
    #[error(
        "the compiler made code for `{proc}` that is refused: {why}; this is a bug in selscan, please report it with the kernel's text"
    )]
    Jit { proc: String, why: String },
    /// Device level only: a buffer of a program without memory that fits it.
    #[error(
        "buffer `{name}` of `{proc}` needs {wanted} elements; bind memory of that length and type to its role"
    )]
    Unbound {
        proc: String,
        name: String,
        wanted: String,
    },
    /// A step of more steps than one.
    #[error(
        "a step of kernel `{kernel}` has an extent of 1 on the time axis {axis}, but `{name}` has {steps}; use `launch`"
    )]
    Steps {
        kernel: String,
        axis: String,
        name: String,
        steps: usize,
    },
    /// A machine for which no code can be made.
    #[error("no code can be made for this machine: {0}; the f64 meaning (`eval`) still runs")]
    Host(String),
    /// Threads that the system did not give.
    #[error("{wanted} threads could not be started: {why}; ask for fewer")]
    Threads { wanted: usize, why: String },
    /// A bug: the runtime panicked while a kernel ran. The outputs hold unspecified numbers.
    #[error(
        "running `{kernel}` panicked: {why}; its outputs are unspecified. This is a bug in selscan, please report it"
    )]
    Panicked { kernel: String, why: String },
    /// The f64 meaning could not be taken.
    #[error(transparent)]
    Eval(#[from] selscan_dsl::eval::EvalError),
    /// No schedule of a kernel gave right numbers.
    #[error("no schedule of kernel `{kernel}` can be used: {why}")]
    Untunable { kernel: String, why: String },
    /// A device's name that is none.
    #[error("`{text}` is no device; wanted `cpu`, `cuda` (the first GPU) or `cuda:N`")]
    NoDevice { text: String },
    /// Tensors that are not where the kernel runs.
    #[error("kernel `{kernel}` runs on {device}, but {odd}; {remedy}")]
    Placement {
        kernel: String,
        device: String,
        odd: String,
        remedy: String,
    },
    /// A copy from one GPU to another.
    #[error(
        "the tensor is on cuda:{other}, but what it is copied into is on cuda:{own}; copy it to the host first \
         (`DeviceTensor::to_tensor`)"
    )]
    Elsewhere { own: u32, other: u32 },
    /// A tensor on a GPU that does not start at a multiple of 16 bytes.
    #[error(
        "the {what} `{name}` starts at {address:#x}, which is no multiple of 16 bytes, but kernels on a GPU move 16 bytes at \
         once; pass the tensor from its allocation's start, or copy it (`.contiguous()`, `.clone()`)"
    )]
    Misaligned {
        what: &'static str,
        name: String,
        address: u64,
    },
    /// No CUDA driver.
    #[error(
        "there is no CUDA driver on this machine (libcuda.so.1, nvcuda.dll): install NVIDIA's driver, or run on the CPU \
         (`Cpu::new()`, `--device cpu`)"
    )]
    NoDriver,
    /// A CUDA driver that is too old.
    #[error(
        "the CUDA driver is of version {}, but {why} {} or newer; update NVIDIA's driver, or run on the CPU (`Cpu::new()`, \
         `--device cpu`)", version(*.found), version(*.wanted)
    )]
    OldDriver {
        found: (u32, u32),
        wanted: (u32, u32),
        why: String,
    },
    /// A GPU that is not there.
    #[error("there is no GPU cuda:{ordinal}; {}", gpus(*.count))]
    NoGpu { ordinal: u32, count: u32 },
    /// A GPU that is too old.
    #[error(
        "{name} has compute capability {}, but kernels need {} (Turing, 2018) or newer; run on the CPU (`Cpu::new()`, \
         `--device cpu`)", capability(*.found), capability(*.wanted)
    )]
    OldGpu {
        name: String,
        found: u32,
        wanted: u32,
    },
    /// No NVRTC.
    #[error(
        "NVRTC, which compiles kernels for GPUs, was not found ({searched}); `pip install nvidia-cuda-nvrtc` or the CUDA \
         toolkit has it, and the environment variable SELSCAN_NVRTC may name the library or a folder that it is in"
    )]
    NoNvrtc { searched: String },
    /// An NVRTC that knows nothing of the GPU.
    #[error(
        "NVRTC {} makes no code for compute capability {}, but for {known}; install another version of it (`pip install \
         nvidia-cuda-nvrtc`)", version(*.nvrtc), capability(*.wanted)
    )]
    NvrtcTarget {
        nvrtc: (u32, u32),
        wanted: u32,
        known: String,
    },
    /// A bug of the compiler: CUDA C that NVRTC does not take.
    #[error(
        "NVRTC {} refused the code of a kernel ({why}); this is a bug in selscan, please report it with the kernel's text\n{log}",
        version(*.nvrtc)
    )]
    Nvrtc {
        nvrtc: (u32, u32),
        why: String,
        log: String,
    },
    /// A bug of NVRTC's: code that would access memory at an address that nothing computes.
    #[error(
        "NVRTC {} lost the computation of an address ({register}) in the code of a kernel, which is not used; another schedule \
         or version of NVRTC may do, and please report it with the kernel's text", version(*.nvrtc)
    )]
    LostAddress { nvrtc: (u32, u32), register: String },
    /// Memory that the GPU does not have.
    #[error(
        "{device} did not give {bytes} bytes of memory ({free} of {total} are free); split the batch or the channels into \
         several launches, or free tensors"
    )]
    DeviceMemory {
        device: String,
        bytes: usize,
        free: usize,
        total: usize,
    },
    /// A call of the CUDA driver that failed.
    #[error("{call} failed{}: {name}: {text}{}", within(.kernel), advice(.name))]
    Cuda {
        call: &'static str,
        name: String,
        text: String,
        /// The kernel that it was about.
        kernel: Option<String>,
    },
    /// A launch of more blocks than a grid has.
    #[error(
        "a launch of `{kernel}` would have {blocks} blocks, but a grid has at most {most}; split the batch or the channels into \
         several launches, or use a schedule with more work in a block"
    )]
    Grid {
        kernel: String,
        blocks: u64,
        most: u64,
    },
    /// Work that can't be recorded in a CUDA graph.
    #[error("{what} while a CUDA graph is being captured; {remedy}")]
    Capturing { what: String, remedy: &'static str },
    /// A file of the schedule store.
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// `13.0`
fn version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// `9.0`, from 90.
fn capability(capability: u32) -> String {
    version((capability / 10, capability % 10))
}

/// Which GPUs there are.
fn gpus(count: u32) -> String {
    match count {
        0 => "the driver finds none (CUDA_VISIBLE_DEVICES hides those that it does not name)"
            .to_owned(),
        1 => "this machine has one, cuda:0".to_owned(),
        _ => format!("this machine has cuda:0 to cuda:{}", count - 1),
    }
}

fn within(kernel: &Option<String>) -> String {
    kernel
        .as_ref()
        .map_or(String::new(), |k| format!(" for kernel `{k}`"))
}

/// What to do about errors of the driver that say little.
fn advice(name: &str) -> &'static str {
    match name {
        "CUDA_ERROR_ILLEGAL_ADDRESS"
        | "CUDA_ERROR_MISALIGNED_ADDRESS"
        | "CUDA_ERROR_LAUNCH_FAILED" => {
            "; work that was queued before it went wrong, and this process can't use the GPU any more: check that every \
             device pointer that was passed is valid for its shape"
        }
        "CUDA_ERROR_STUB_LIBRARY" => {
            "; a stub of the toolkit was loaded in place of the driver: leave its folder out of LD_LIBRARY_PATH"
        }
        "CUDA_ERROR_UNKNOWN"
        | "CUDA_ERROR_SYSTEM_NOT_READY"
        | "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" => "; see whether `nvidia-smi` works",
        _ => "",
    }
}

/// What a caller may have meant.
fn suggestion(nearest: &Option<String>, known: &[String]) -> String {
    let all = if known.is_empty() {
        "it has none".to_owned()
    } else {
        format!("it has `{}`", known.join("`, `"))
    };
    match nearest {
        Some(name) => format!("did you mean `{name}`? ({all})"),
        None => all,
    }
}

/// The known name that `name` most likely is: fewest edits, at most one in three letters.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let limit = name.chars().count().div_ceil(3);
    known
        .into_iter()
        .map(|candidate| (edits(name, candidate), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_a_likely_one() {
        let known = ["u", "delta", "delta_bias", "z"];
        assert_eq!(nearest("detla", known).as_deref(), Some("delta"));
        assert_eq!(nearest("delt", known).as_deref(), Some("delta"));
        assert_eq!(nearest("delta_bais", known).as_deref(), Some("delta_bias"));
        assert_eq!(nearest("v", known).as_deref(), Some("u"));
        assert_eq!(nearest("weights", known), None);
    }

    #[test]
    fn errors_cross_threads() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Error>();
    }
}
