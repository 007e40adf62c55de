//! A program as machine code for a GPU.
//!
//! In: a [`Program`] of loops (emitted as CUDA C, compiled by NVRTC or read from disk, loaded), or the name of a plan whose
//! program was compiled before. Out: [`CudaProgram`], whose launch queues the procs one after another, each over all of its work items. The code is unloaded when the
//! program is dropped.

use std::ffi::CString;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUmodule};
use selscan_codegen::Fingerprint;
use selscan_codegen::backend::cuda::{Entry, Kernels, Source, emit};
use selscan_codegen::loop_ir::{Program, Role};
use selscan_dsl::Extents;

use super::carveout::Block;
use super::code::{self, Cubin, Id};
use super::driver::{about, cu, failed_with};
use super::nvrtc::Resources;
use super::pool::Room;
use super::{Cuda, Gpu, Queue, WARM, index};
use crate::cache::lock;
use crate::device::bindings::Bindings;
use crate::device::cpu::contained;
use crate::device::program::{name, signed, size};
use crate::error::Error;
use crate::place::Place;

/// The most blocks of a grid.
const MOST_BLOCKS: u64 = (1 << 31) - 1;
/// Shared memory that a block may have without asking for it, bytes.
const SHARED_UNASKED: u32 = 48 << 10;

/// A program as machine code for one GPU.
pub struct CudaProgram {
    kernels: Kernels,
    module: Arc<Module>,
    /// By proc.
    functions: Vec<Function>,
    resources: Vec<Resources>,
    compile_time: Duration,
    from_disk: bool,
    code: Id,
}

/// Loaded code.
pub(super) struct Module {
    gpu: Arc<Gpu>,
    raw: CUmodule,
    /// The streams that it was launched on, as far as they are alive.
    used_on: Mutex<Vec<Weak<Queue>>>,
}

// SAFETY: modules may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        if let Ok(_entered) = self.gpu.context.enter() {
            for queue in lock(&self.used_on).iter().filter_map(Weak::upgrade) {
                // Work that runs it may be queued. Of a stream that is being captured that can't be waited for, and the
                // code stays. Another error is one of earlier work, which `synchronize` tells.
                if queue.is_capturing().unwrap_or(true) {
                    return;
                }
                // SAFETY: the stream is alive.
                let _ = unsafe { cu!(cuStreamSynchronize(queue.stream.raw)) };
            }
            // SAFETY: loaded once, unloaded once, and nothing runs it.
            let _ = unsafe { cu!(cuModuleUnload(self.raw)) };
        }
    }
}

impl Module {
    /// Notes that it is launched on a stream.
    fn use_on(&self, queue: &Arc<Queue>) {
        let mut used_on = lock(&self.used_on);
        if !used_on.iter().any(|q| q.as_ptr() == Arc::as_ptr(queue)) {
            used_on.retain(|q| q.strong_count() > 0);
            used_on.push(Arc::downgrade(queue));
        }
    }
}

/// A kernel of the module beside it.
struct Function {
    raw: CUfunction,
    block: Block,
    /// The part of a multiprocessor's memory that it last asked for as shared memory, in percent.
    carveout: AtomicI32,
}

// SAFETY: functions may be used from any thread, as long as their module.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Cuda {
    /// Compiles a program, or reads what an earlier process compiled.
    ///
    /// # Errors
    /// [`Error::NoNvrtc`], [`Error::OldDriver`]; [`Error::Jit`], [`Error::Nvrtc`], [`Error::LostAddress`] on a bug of a
    /// compiler.
    pub fn compile(&self, program: &Program) -> Result<CudaProgram, Error> {
        self.not_while_recording("a kernel had to be compiled", WARM)?;
        let panicked = |why| Error::Jit {
            proc: name(program).to_owned(),
            why: format!("it panicked: {why}"),
        };
        contained(panicked, || compile(&self.gpu, program))
    }

    /// The same for the program of a plan, by which [`Cuda::recall`] finds it from now on.
    pub(in crate::device) fn compile_plan(
        &self,
        plan: &Fingerprint,
        program: &Program,
    ) -> Result<CudaProgram, Error> {
        let made = self.compile(program)?;
        if let Some(folder) = code::folder(self.gpu.store.folder()) {
            index::note(
                &folder,
                plan,
                self.gpu.capability,
                &made.kernels,
                &made.code,
            );
        }
        Ok(made)
    }

    /// What an earlier process compiled a plan to, if it is found and the driver takes it.
    pub(in crate::device) fn recall(&self, plan: &Fingerprint) -> Option<CudaProgram> {
        let started = Instant::now();
        let folder = code::folder(self.gpu.store.folder())?;
        // Nothing can be loaded while a graph is recorded: the program is in memory, or `compile` says what to do.
        self.not_while_recording("", WARM).ok()?;
        let (kernels, cubin) = index::recall(&folder, plan, self.gpu.capability)?;
        let read = started.elapsed();
        let loaded = load(&self.gpu, &cubin)
            .and_then(|module| CudaProgram::new(module, kernels, cubin, started))
            .inspect_err(unloadable)
            .ok()?;
        tracing::debug!(
            "{}: found in {read:?}, loaded in {:?}",
            loaded.name(),
            loaded.compile_time.saturating_sub(read)
        );
        Some(loaded)
    }

    /// The CUDA C of a program.
    ///
    /// # Errors
    /// [`Error::Jit`] on a bug of the compiler.
    pub fn source(program: &Program) -> Result<Source, Error> {
        emit(program).map_err(|e| Error::Jit {
            proc: name(program).to_owned(),
            why: e.to_string(),
        })
    }
}

/// A file that is whole may still hold what this driver does not take.
fn unloadable(why: &Error) {
    tracing::warn!("code that was read from disk can't be loaded ({why}); it is compiled again");
}

fn compile(gpu: &Arc<Gpu>, program: &Program) -> Result<CudaProgram, Error> {
    let started = Instant::now();
    let Source { text, kernels } = Cuda::source(program)?;
    let emitted = started.elapsed();
    let folder = code::folder(gpu.store.folder());
    let mut cubin = code::obtain(folder.as_deref(), &text, gpu.capability)?;
    let obtained = started.elapsed();
    let module = match load(gpu, &cubin) {
        Err(why) if cubin.read => {
            unloadable(&why);
            cubin = code::make(folder.as_deref(), &text, gpu.capability)?;
            load(gpu, &cubin)?
        }
        loaded => loaded?,
    };
    tracing::debug!(
        "{}: emitted in {emitted:?}, {} in {:?}, loaded in {:?}",
        name(program),
        if cubin.read { "read" } else { "compiled" },
        obtained.saturating_sub(emitted),
        started.elapsed().saturating_sub(obtained),
    );
    CudaProgram::new(module, kernels, cubin, started)
}

/// Loads a CUBIN into the GPU's context.
fn load(gpu: &Arc<Gpu>, cubin: &Cubin) -> Result<Module, Error> {
    let _entered = gpu.context.enter()?;
    let mut raw = std::ptr::null_mut();
    // SAFETY: the CUBIN is an ELF file, whose header says how long it is; the driver copies it.
    let loaded = unsafe { cu!(cuModuleLoadData(&raw mut raw, cubin.cubin.as_ptr().cast())) };
    loaded.map_err(|error| {
        let refused = [
            "CUDA_ERROR_INVALID_IMAGE",
            "CUDA_ERROR_NO_BINARY_FOR_GPU",
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            "CUDA_ERROR_INVALID_SOURCE",
        ];
        let (major, minor) = cubin.id.nvrtc();
        // Code runs on every driver of the same major version or a later one.
        if major > gpu.driver.0 && failed_with(&error, &refused) {
            return Error::OldDriver {
                found: gpu.driver,
                wanted: (major, 0),
                why: format!("the code of NVRTC {major}.{minor} needs"),
            };
        }
        error
    })?;
    Ok(Module {
        gpu: gpu.clone(),
        raw,
        used_on: Mutex::default(),
    })
}

/// A kernel of a module, allowed the shared memory that it asks for.
fn function(module: &Module, entry: &Entry, resources: &Resources) -> Result<Function, Error> {
    let _entered = module.gpu.context.enter()?;
    let symbol = CString::new(entry.name.as_str()).map_err(|_| Error::Jit {
        proc: entry.name.clone(),
        why: "its name has a NUL byte".to_owned(),
    })?;
    let mut raw = std::ptr::null_mut();
    // SAFETY: the module is loaded, the name ends in NUL, one pointer is written.
    unsafe {
        cu!(cuModuleGetFunction(
            &raw mut raw,
            module.raw,
            symbol.as_ptr()
        ))
    }?;
    if entry.shared > SHARED_UNASKED {
        let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is of a loaded module.
        unsafe { cu!(cuFuncSetAttribute(raw, most, entry.shared as i32)) }?;
    }
    Ok(Function {
        raw,
        block: Block {
            threads: entry.threads,
            registers: resources.registers,
            shared: entry.shared,
        },
        carveout: AtomicI32::new(-1),
    })
}

/// One kernel about to be queued.
struct Launch<'p> {
    entry: &'p Entry,
    function: &'p Function,
    blocks: u32,
    /// The bits of its parameters, 64 each.
    parameters: Vec<u64>,
}

impl CudaProgram {
    /// The kernels of loaded code, which began to be made at `started`.
    fn new(
        module: Module,
        kernels: Kernels,
        cubin: Cubin,
        started: Instant,
    ) -> Result<CudaProgram, Error> {
        // In the order of the procs.
        let resources = |entry: &Entry| {
            let mut found = cubin.functions.iter().filter(|f| f.name == entry.name);
            found.next().cloned().unwrap_or_else(|| Resources {
                name: entry.name.clone(),
                ..Resources::default()
            })
        };
        let resources: Vec<Resources> = kernels.entries.iter().map(resources).collect();
        let functions = kernels.entries.iter().zip(&resources);
        let functions = functions
            .map(|(entry, own)| function(&module, entry, own).map_err(about(&entry.name)))
            .collect::<Result<_, _>>()?;
        Ok(CudaProgram {
            resources,
            kernels,
            module: Arc::new(module),
            functions,
            compile_time: started.elapsed(),
            from_disk: cubin.read,
            code: cubin.id,
        })
    }

    /// What it is called in messages.
    fn name(&self) -> &str {
        self.kernels.entries.first().map_or("", |e| e.proc.as_str())
    }
    /// What a launch of each kernel needs.
    #[must_use]
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }
    /// What each kernel takes of a multiprocessor.
    #[must_use]
    pub fn resources(&self) -> &[Resources] {
        &self.resources
    }
    /// How long emission, compilation or reading, and loading took.
    #[must_use]
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }
    /// Whether an earlier process had compiled it.
    #[must_use]
    pub fn from_disk(&self) -> bool {
        self.from_disk
    }

    /// Queues every proc over all of its work items on the stream of `cuda`, and returns before they have run.
    ///
    /// # Errors
    /// [`Error::Unbound`] if a buffer is not bound to memory of the GPU, or not as long as the extents make it, or of
    /// another type; [`Error::Grid`], [`Error::DeviceMemory`], [`Error::Cuda`].
    pub fn launch(
        &self,
        cuda: &Cuda,
        bindings: Bindings<'_>,
        extents: &Extents,
    ) -> Result<(), Error> {
        self.launch_in(&mut cuda.room(), bindings, extents)
    }

    pub(in crate::device) fn launch_in(
        &self,
        room: &mut Room<'_>,
        bindings: Bindings<'_>,
        extents: &Extents,
    ) -> Result<(), Error> {
        let cuda = room.cuda;
        if !Arc::ptr_eq(&self.module.gpu, &cuda.gpu) {
            return Err(Error::Placement {
                kernel: self.name().to_owned(),
                device: format!("cuda:{}", self.module.gpu.ordinal),
                odd: format!(
                    "it is launched on another handle of cuda:{}",
                    cuda.ordinal()
                ),
                remedy: "use the `Cuda` that compiled it, a clone of it, or `on_stream`".to_owned(),
            });
        }
        let extents = signed(extents)?;
        let mark = room.mark();
        let mut workspaces = Vec::with_capacity(self.kernels.workspaces.len());
        for (dtype, len) in &self.kernels.workspaces {
            let too_large = || Error::TooLarge {
                what: "a workspace".to_owned(),
            };
            let len = size(len, &extents, &|| "a workspace".to_owned())?;
            workspaces.push((
                room.take(len.checked_mul(dtype.bytes()).ok_or_else(too_large)?)?,
                *dtype,
                len,
            ));
        }
        // Everything is checked before anything is queued.
        let entries = self.kernels.entries.iter().zip(&self.functions);
        let prepared = entries
            .map(|(entry, function)| prepare(entry, function, &bindings, &workspaces, &extents))
            .collect::<Result<Vec<_>, _>>()?;
        self.module.use_on(&cuda.queue);
        cuda.record(|held| {
            held.add_module(&self.module);
            bindings.addresses().for_each(|at| held.add_range(at));
        });
        let _entered = cuda.enter()?;
        for launch in prepared.into_iter().filter(|launch| launch.blocks > 0) {
            launch.queue(cuda)?;
        }
        // What is queued next may have the workspaces: it runs later.
        room.release(mark);
        Ok(())
    }
}

fn prepare<'p>(
    entry: &'p Entry,
    function: &'p Function,
    bindings: &Bindings<'_>,
    workspaces: &[(u64, selscan_codegen::Dtype, usize)],
    extents: &[i64],
) -> Result<Launch<'p>, Error> {
    let mut parameters = Vec::with_capacity(entry.buffers.len() + entry.extents.len());
    for buffer in &entry.buffers {
        let len = size(&buffer.len, extents, &|| format!("`{}`", buffer.name))?;
        let found = match buffer.role {
            Role::Workspace(number) => workspaces
                .get(number as usize)
                .filter(|(_, dtype, has)| *dtype == buffer.dtype && *has >= len)
                .map(|(ptr, ..)| *ptr),
            Role::Input(_)
            | Role::Initial(_)
            | Role::Last(_)
            | Role::Output(_)
            | Role::Scratch
            | Role::Shared
            | Role::Exchange => bindings
                .get(buffer.role)
                .filter(|b| b.dtype == buffer.dtype && b.len == len && b.place != Place::Host)
                .map(|b| b.ptr.addr() as u64),
        };
        parameters.push(found.ok_or_else(|| Error::Unbound {
            proc: entry.proc.clone(),
            name: buffer.name.clone(),
            wanted: format!("{len} {} on the GPU", buffer.dtype),
        })?);
    }
    for axis in &entry.extents {
        let extent = extents.get(axis.0 as usize).copied().unwrap_or(0);
        parameters.push(extent.cast_unsigned());
    }
    let items = size(&entry.all, extents, &|| {
        "the count of work items".to_owned()
    })? as u64;
    let blocks = items.div_ceil(u64::from(entry.items.max(1)));
    if blocks > MOST_BLOCKS {
        return Err(Error::Grid {
            kernel: entry.name.clone(),
            blocks,
            most: MOST_BLOCKS,
        });
    }
    Ok(Launch {
        entry,
        function,
        blocks: blocks as u32,
        parameters,
    })
}

impl Launch<'_> {
    /// Says how much of a multiprocessor's memory is to be shared memory, if it is not what was said last.
    fn divide(&self, cuda: &Cuda) -> Result<(), Error> {
        let target = cuda.target();
        let Some(gpu) = &target.gpu else {
            return Ok(());
        };
        let percent = self.function.block.carveout(self.blocks, gpu, target.l1);
        if self.function.carveout.swap(percent, Ordering::Relaxed) == percent {
            return Ok(());
        }
        let carveout = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        // SAFETY: the function is of a loaded module.
        unsafe { cu!(cuFuncSetAttribute(self.function.raw, carveout, percent)) }
    }

    /// Puts the kernel on the stream. The context is the thread's.
    fn queue(mut self, cuda: &Cuda) -> Result<(), Error> {
        self.divide(cuda).map_err(about(&self.entry.name))?;
        let mut addresses: Vec<*mut std::ffi::c_void> = self
            .parameters
            .iter_mut()
            .map(|p| std::ptr::from_mut(p).cast())
            .collect();
        // SAFETY: the kernel has these parameters, 64 bits each (the emitter's contract), which the driver copies. Every
        // buffer is there and as long as the proc's declaration says; the verifier keeps indices to declared names, and
        // blocks write disjoint elements.
        let queued = unsafe {
            cu!(cuLaunchKernel(
                self.function.raw,
                self.blocks,
                1,
                1,
                self.entry.threads,
                1,
                1,
                self.entry.shared,
                cuda.stream(),
                addresses.as_mut_ptr(),
                std::ptr::null_mut(),
            ))
        };
        queued.map_err(about(&self.entry.name))
    }
}
