//! Devices: where kernels run. The only folder of the workspace with `unsafe` in it.
//!
//! In: a device's name, a recurrence. Out: [`Device`], the CPU or a GPU, and kernels on it.

mod bindings;
pub mod cpu;
pub mod cuda;
mod host;
pub(crate) mod memory;
mod program;
pub(crate) mod room;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use selscan_codegen::{Fingerprint, Plan, Target, lower};

use crate::error::Error;
use crate::store::Store;

pub use bindings::Bindings;
pub use cpu::{Cpu, CpuOptions};
pub use cuda::event::Event;
pub use cuda::graph::Graph;
pub use cuda::program::CudaProgram;
pub use cuda::tensor::DeviceTensor;
pub use cuda::{Cuda, CudaOptions};
pub use host::Feature;
pub use program::CpuProgram;

/// Where kernels run. Cheap to clone; clones share threads, streams and compiled code.
#[derive(Clone, Debug)]
pub enum Device {
    /// The CPU.
    Cpu(Cpu),
    /// A GPU and a stream on it.
    Cuda(Cuda),
}

/// Which device: `cpu`, `cuda:0`, …
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DeviceName {
    /// The CPU.
    Cpu,
    /// The GPU of an ordinal.
    Cuda(u32),
}

/// A program's code on a device.
pub enum Code {
    /// For the CPU.
    Cpu(Box<CpuProgram>),
    /// For a GPU.
    Cuda(CudaProgram),
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = Error;

    /// `cpu`, `cuda` (the first GPU) or `cuda:N`.
    fn from_str(text: &str) -> Result<DeviceName, Error> {
        let ordinal = |rest: &str| match rest.strip_prefix(':') {
            None if rest.is_empty() => Some(0),
            // `u32` would take a sign.
            Some(number) if number.bytes().all(|b| b.is_ascii_digit()) => number.parse().ok(),
            _ => None,
        };
        let gpu = || text.strip_prefix("cuda").and_then(ordinal);
        match text {
            "cpu" => Ok(DeviceName::Cpu),
            _ => gpu().map(DeviceName::Cuda).ok_or_else(|| Error::NoDevice {
                text: text.to_owned(),
            }),
        }
    }
}

impl Device {
    /// The device of a name: `cpu`, `cuda` (the first GPU) or `cuda:N`.
    ///
    /// # Errors
    /// [`Error::NoDevice`]; as [`Cpu::new`] and [`Cuda::new`].
    pub fn open(name: &str) -> Result<Device, Error> {
        match name.parse()? {
            DeviceName::Cpu => Ok(Device::Cpu(Cpu::new()?)),
            DeviceName::Cuda(ordinal) => Ok(Device::Cuda(Cuda::new(ordinal)?)),
        }
    }

    /// The first GPU if kernels can be compiled for it and run on it, else the CPU. Says in the log why a GPU is not used.
    ///
    /// # Errors
    /// As [`Cpu::new`].
    pub fn best() -> Result<Device, Error> {
        match Cuda::usable(0) {
            Ok(cuda) => Ok(Device::Cuda(cuda)),
            Err(why) => {
                if matches!(why, Error::NoDriver | Error::NoGpu { .. }) {
                    tracing::debug!("{why}");
                } else {
                    tracing::warn!("the GPU is not used: {why}");
                }
                Ok(Device::Cpu(Cpu::new()?))
            }
        }
    }

    /// Which one it is.
    #[must_use]
    pub fn name(&self) -> DeviceName {
        match self {
            Device::Cpu(_) => DeviceName::Cpu,
            Device::Cuda(cuda) => DeviceName::Cuda(cuda.ordinal()),
        }
    }
    /// What plans need to know of it.
    #[must_use]
    pub fn target(&self) -> &Target {
        match self {
            Device::Cpu(cpu) => cpu.target(),
            Device::Cuda(cuda) => cuda.target(),
        }
    }
    /// Where tuned schedules are remembered.
    #[must_use]
    pub fn store(&self) -> &Store {
        match self {
            Device::Cpu(cpu) => cpu.store(),
            Device::Cuda(cuda) => cuda.store(),
        }
    }
    /// It, if it is the CPU.
    #[must_use]
    pub fn cpu(&self) -> Option<&Cpu> {
        match self {
            Device::Cpu(cpu) => Some(cpu),
            Device::Cuda(_) => None,
        }
    }
    /// It, if it is a GPU.
    #[must_use]
    pub fn cuda(&self) -> Option<&Cuda> {
        match self {
            Device::Cpu(_) => None,
            Device::Cuda(cuda) => Some(cuda),
        }
    }

    /// Waits until all work that was queued is done; a CPU has none.
    ///
    /// # Errors
    /// As [`Cuda::synchronize`].
    pub fn synchronize(&self) -> Result<(), Error> {
        match self {
            Device::Cpu(_) => Ok(()),
            Device::Cuda(cuda) => cuda.synchronize(),
        }
    }

    /// The code of a plan: that of an equal one, what an earlier process made of it, or compiled now.
    pub(crate) fn code(&self, plan: &Plan) -> Result<Arc<Code>, Error> {
        let id = Fingerprint::of(plan);
        let cache = match self {
            Device::Cpu(cpu) => cpu.code(),
            Device::Cuda(cuda) => cuda.code(),
        };
        if let Some(code) = cache.of_plan(&id) {
            return Ok(code);
        }
        let recalled = match self {
            Device::Cpu(_) => None,
            Device::Cuda(cuda) => cuda.recall(&id),
        };
        let code = match recalled {
            Some(code) => Arc::new(Code::Cuda(code)),
            None => cache.get_or_compile(lower(plan), |program| {
                Ok(match self {
                    Device::Cpu(cpu) => Code::Cpu(Box::new(cpu.compile(program.clone())?)),
                    Device::Cuda(cuda) => Code::Cuda(cuda.compile_plan(&id, program)?),
                })
            })?,
        };
        cache.keep(id, &code);
        Ok(code)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.target().name)
    }
}

impl Code {
    /// How long emission and compilation (or reading what was compiled before) took.
    #[must_use]
    pub fn jit_time(&self) -> Duration {
        match self {
            Code::Cpu(code) => code.jit_time(),
            Code::Cuda(code) => code.compile_time(),
        }
    }
    /// It, if it is the CPU's.
    #[must_use]
    pub fn cpu(&self) -> Option<&CpuProgram> {
        match self {
            Code::Cpu(code) => Some(code),
            Code::Cuda(_) => None,
        }
    }
    /// It, if it is a GPU's.
    #[must_use]
    pub fn cuda(&self) -> Option<&CudaProgram> {
        match self {
            Code::Cpu(_) => None,
            Code::Cuda(code) => Some(code),
        }
    }
}

impl From<Cpu> for Device {
    fn from(cpu: Cpu) -> Device {
        Device::Cpu(cpu)
    }
}
impl From<&Cpu> for Device {
    fn from(cpu: &Cpu) -> Device {
        Device::Cpu(cpu.clone())
    }
}
impl From<Cuda> for Device {
    fn from(cuda: Cuda) -> Device {
        Device::Cuda(cuda)
    }
}
impl From<&Cuda> for Device {
    fn from(cuda: &Cuda) -> Device {
        Device::Cuda(cuda.clone())
    }
}
impl From<&Device> for Device {
    fn from(device: &Device) -> Device {
        device.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn devices_have_names() {
        for (text, name) in [
            ("cpu", DeviceName::Cpu),
            ("cuda", DeviceName::Cuda(0)),
            ("cuda:0", DeviceName::Cuda(0)),
            ("cuda:17", DeviceName::Cuda(17)),
        ] {
            assert_eq!(text.parse::<DeviceName>().unwrap(), name);
        }
        assert_eq!(DeviceName::Cuda(3).to_string(), "cuda:3");
        for text in [
            "",
            "gpu",
            "cuda:",
            "cuda:-1",
            "cuda:+1",
            "cuda0",
            "CPU",
            "cuda:99999999999",
        ] {
            let error = text.parse::<DeviceName>().unwrap_err().to_string();
            assert!(error.contains("`cuda:N`"), "{error}");
        }
    }

    #[test]
    fn there_is_always_a_device() {
        assert!(Device::open("cpu").unwrap().cpu().is_some());
        let best = Device::best().unwrap();
        assert_eq!(best.cuda().is_some(), best.target().gpu.is_some());
        match Device::open("cuda:99") {
            Err(Error::NoDriver | Error::OldDriver { .. } | Error::NoGpu { .. }) => {}
            other => assert!(other.is_err(), "{other:?}"),
        }
    }
}
