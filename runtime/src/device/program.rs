//! A program as machine code.
//!
//! In: a [`Program`] of loops (each proc is verified, legalised and emitted by the backend, then compiled). Out: [`CpuProgram`],
//! whose [`CpuProgram::launch`] runs the procs one after another, each over its work items on all threads. The
//! code's memory is given back when the program is dropped.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cranelift_codegen::Context;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Module, default_libcall_names};
use selscan_codegen::backend::cranelift::{assembly, emit, prepare};
use selscan_codegen::backend::scratch_bytes;
use selscan_codegen::loop_ir::{Ix, Proc, Program, Role};
use selscan_dsl::Extents;

use super::bindings::Bindings;
use super::cpu::{Cpu, contained};
use super::memory::{Memory, SpanMut};
use crate::cache::lock;
use crate::error::Error;
use crate::place::Place;

/// A launch that touches fewer bytes than this runs on the calling thread: waking the others costs as much.
const SPREAD_BYTES: usize = 32 << 10;

/// A compiled proc: runs the work items `first..end` with `scratch` to itself.
type Entry = unsafe extern "C" fn(
    buffers: *const *mut u8,
    extents: *const i64,
    first: i64,
    end: i64,
    scratch: *mut u8,
);

/// A program as machine code for one CPU.
pub struct CpuProgram {
    cpu: Cpu,
    program: Arc<Program>,
    /// By proc.
    entries: Vec<Entry>,
    jit_time: Duration,
    /// Dropped last: the entries point into it.
    _code: Code,
}

/// Executable memory.
struct Code(Mutex<Option<JITModule>>);

impl Drop for Code {
    fn drop(&mut self) {
        if let Some(module) = lock(&self.0).take() {
            // SAFETY: entries are private to the `CpuProgram` that owns this code; it is being dropped, so no
            // launch, which borrows it, is running, and none can start.
            unsafe { module.free_memory() }
        }
    }
}

/// Addresses of the buffers of a launch.
struct Pointers(Vec<*mut u8>);

// SAFETY: the addresses are only handed to compiled procs, whose work items write disjoint elements.
unsafe impl Sync for Pointers {}

impl Pointers {
    fn as_ptr(&self) -> *const *mut u8 {
        self.0.as_ptr()
    }
}

/// What a program is called in messages.
pub(super) fn name(program: &Program) -> &str {
    program.procs.first().map_or("", |p| p.name.as_str())
}

/// A refusal that only a bug of the compiler can cause.
fn bug(proc: &Proc, why: &dyn ToString) -> Error {
    Error::Jit {
        proc: proc.name.clone(),
        why: why.to_string(),
    }
}

impl Cpu {
    /// Compiles a program.
    ///
    /// # Errors
    /// [`Error::Jit`] on a bug of the compiler.
    pub fn compile(&self, program: impl Into<Arc<Program>>) -> Result<CpuProgram, Error> {
        let program = program.into();
        let panicked = |why| Error::Jit {
            proc: name(&program).to_owned(),
            why: format!("it panicked: {why}"),
        };
        contained(panicked, || self.compile_all(&program))
    }

    fn compile_all(&self, program: &Arc<Program>) -> Result<CpuProgram, Error> {
        let started = Instant::now();
        let isa = self.isa();
        let builder = JITBuilder::with_isa(isa.clone(), default_libcall_names());
        let code = Code(Mutex::new(Some(JITModule::new(builder))));
        let mut entries = Vec::with_capacity(program.procs.len());
        if let Some(module) = &mut *lock(&code.0) {
            let mut made = Vec::with_capacity(program.procs.len());
            for proc in &program.procs {
                let function = emit(proc, &**isa).map_err(|e| bug(proc, &e))?;
                let mut context = Context::for_function(function);
                let compiled = context
                    .compile(&**isa, &mut Default::default())
                    .map_err(|e| bug(proc, &e.inner))?;
                // Kernels call nothing: a relocation is an operation that legalisation left to a library.
                if let Some(reloc) = compiled.buffer.relocs().first() {
                    return Err(bug(proc, &format!("it refers to {:?}", reloc.target)));
                }
                let align = u64::from(compiled.buffer.alignment)
                    .max(u64::from(isa.function_alignment().preferred));
                let bytes = compiled.code_buffer().to_vec();
                let id = module
                    .declare_anonymous_function(&context.func.signature)
                    .map_err(|e| bug(proc, &e))?;
                module
                    .define_function_bytes(id, align, &bytes, &[])
                    .map_err(|e| bug(proc, &e))?;
                made.push(id);
            }
            module
                .finalize_definitions()
                .map_err(|e| Error::Host(e.to_string()))?;
            for id in made {
                let address = module.get_finalized_function(id);
                // SAFETY: the function was emitted with this signature (the emitter's contract), in the C
                // calling convention of this machine.
                entries.push(unsafe { std::mem::transmute::<*const u8, Entry>(address) });
            }
        }
        Ok(CpuProgram {
            cpu: self.clone(),
            program: program.clone(),
            entries,
            jit_time: started.elapsed(),
            _code: code,
        })
    }

    /// The procs of a program in the operations that this machine has.
    #[must_use]
    pub fn legal(&self, program: &Program) -> Vec<Proc> {
        let isa = self.isa();
        program.procs.iter().map(|p| prepare(p, &**isa)).collect()
    }

    /// The code generator's input for each proc of a program, as text.
    ///
    /// # Errors
    /// As [`Cpu::compile`].
    pub fn clif(&self, program: &Program) -> Result<String, Error> {
        let text = |proc: &Proc| {
            let function = emit(proc, &**self.isa()).map_err(|e| bug(proc, &e))?;
            Ok(format!("; {}\n{}", proc.name, function.display()))
        };
        let texts: Result<Vec<_>, Error> = program.procs.iter().map(text).collect();
        Ok(texts?.join("\n"))
    }

    /// The machine code of each proc of a program, as text.
    ///
    /// # Errors
    /// As [`Cpu::compile`].
    pub fn asm(&self, program: &Program) -> Result<String, Error> {
        let text = |proc: &Proc| {
            let text = assembly(proc, &**self.isa()).map_err(|e| bug(proc, &e))?;
            Ok(format!("; {}\n{text}", proc.name))
        };
        let texts: Result<Vec<_>, Error> = program.procs.iter().map(text).collect();
        Ok(texts?.join("\n"))
    }
}

/// The value of an integer expression of a program's extents, as a size.
pub(super) fn size(ix: &Ix, extents: &[i64], what: &dyn Fn() -> String) -> Result<usize, Error> {
    let extent = |axis: selscan_dsl::AxisId| extents.get(axis.0 as usize).copied().unwrap_or(-1);
    ix.eval(&|_| -1, &extent)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| Error::TooLarge { what: what() })
}

/// Extents as the integers that programs compute with.
pub(super) fn signed(extents: &Extents) -> Result<Vec<i64>, Error> {
    let signed = |&n: &usize| {
        i64::try_from(n).map_err(|_| Error::TooLarge {
            what: format!("an axis of {n} points"),
        })
    };
    extents.0.iter().map(signed).collect()
}

impl CpuProgram {
    /// The program as it was lowered.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }
    /// How long verification, legalisation, emission and compilation took.
    #[must_use]
    pub fn jit_time(&self) -> Duration {
        self.jit_time
    }

    /// Runs every proc over all of its work items. Workspaces are allocated for the launch.
    ///
    /// # Errors
    /// [`Error::Unbound`] if a buffer is not bound, or not as long as the extents make it, or of another type;
    /// [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn launch(&self, bindings: Bindings<'_>, extents: &Extents) -> Result<(), Error> {
        let extents = signed(extents)?;
        let mut workspaces = Vec::with_capacity(self.program.workspaces.len());
        for (dtype, len) in &self.program.workspaces {
            let len = size(len, &extents, &|| "a workspace".to_owned())?;
            let bytes = len
                .checked_mul(dtype.bytes())
                .ok_or_else(|| Error::TooLarge {
                    what: "a workspace".to_owned(),
                })?;
            workspaces.push((Memory::zeroed(bytes)?, *dtype, len));
        }
        // From here on it also holds workspaces, which live shorter than the caller's memory.
        let mut bindings: Bindings<'_> = bindings;
        for (number, (memory, dtype, len)) in workspaces.iter_mut().enumerate() {
            bindings.workspace(number as u32, SpanMut::of_memory(memory, *dtype, *len));
        }
        // Everything is checked before anything is written.
        let procs = self.program.procs.iter().zip(&self.entries);
        let prepared = procs
            .map(|(proc, &entry)| Launch::new(proc, entry, &bindings, &extents))
            .collect::<Result<Vec<_>, _>>()?;
        let panicked = |why| Error::Panicked {
            kernel: name(&self.program).to_owned(),
            why,
        };
        contained(panicked, || {
            prepared
                .iter()
                .try_for_each(|launch| launch.run(&self.cpu, &extents))
        })
    }
}

/// One proc about to run.
struct Launch<'a> {
    entry: Entry,
    pointers: Pointers,
    items: i64,
    scratch: usize,
    spread: bool,
    memory: std::marker::PhantomData<&'a ()>,
}

impl<'a> Launch<'a> {
    fn new(
        proc: &Proc,
        entry: Entry,
        bindings: &Bindings<'a>,
        extents: &[i64],
    ) -> Result<Launch<'a>, Error> {
        let mut pointers = Vec::with_capacity(proc.buffers.len());
        let mut touched = 0usize;
        for buffer in &proc.buffers {
            if !buffer.role.is_bound() {
                pointers.push(std::ptr::null_mut());
                continue;
            }
            let len = size(&buffer.len, extents, &|| format!("`{}`", buffer.name))?;
            let is_shared = matches!(buffer.role, Role::Workspace(_));
            let bound = bindings
                .get(buffer.role)
                .filter(|b| b.place == Place::Host && b.dtype == buffer.dtype)
                .filter(|b| b.len == len || is_shared && b.len >= len)
                .ok_or_else(|| Error::Unbound {
                    proc: proc.name.clone(),
                    name: buffer.name.clone(),
                    wanted: format!("{} {}", len, buffer.dtype),
                })?;
            touched = touched.saturating_add(len.saturating_mul(buffer.dtype.bytes()));
            pointers.push(bound.ptr);
        }
        let items = size(&proc.items, extents, &|| {
            "the count of work items".to_owned()
        })?;
        let scratch = scratch_bytes(proc, extents).ok_or_else(|| Error::TooLarge {
            what: "a thread's scratch memory".to_owned(),
        })?;
        Ok(Launch {
            entry,
            pointers: Pointers(pointers),
            // `size` gave what was an i64.
            items: items as i64,
            scratch,
            spread: touched >= SPREAD_BYTES,
            memory: std::marker::PhantomData,
        })
    }

    fn run(&self, cpu: &Cpu, extents: &[i64]) -> Result<(), Error> {
        if self.items == 0 {
            return Ok(());
        }
        let (entry, pointers) = (self.entry, &self.pointers);
        cpu.spread(
            self.items,
            self.scratch,
            self.spread,
            |first, end, scratch| {
                // SAFETY: every buffer is there and as long as the proc's declaration says; the verifier keeps
                // indices to declared names, the borrows behind the bindings last until the launch returns, and
                // work items write disjoint elements.
                unsafe { entry(pointers.as_ptr(), extents.as_ptr(), first, end, scratch) }
            },
        )
    }
}
