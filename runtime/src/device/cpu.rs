//! The CPU: its instruction set, its threads and the code that was compiled for it.
//!
//! In: options. Out: [`Cpu`], which compiles programs ([`Cpu::compile`]) and spreads work items over threads in
//! contiguous blocks, each thread with scratch memory of its own that is kept for the next launch.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use cranelift_codegen::isa::OwnedTargetIsa;
use rayon::ThreadPool;
use selscan_codegen::Target;

use super::Code;
use super::host::{self, Feature};
use super::memory::Memory;
use crate::cache::CodeCache;
use crate::error::Error;
use crate::store::Store;

/// Blocks of work items that each thread takes, on average: one slow core then costs at most a quarter of its share.
const BLOCKS_PER_THREAD: i64 = 4;

/// How to set up a [`Cpu`].
#[derive(Clone, Debug, Default)]
pub struct CpuOptions {
    /// Threads; as many as the process may use at once where not given.
    pub threads: Option<usize>,
    /// Instruction set extensions not to use.
    pub without: Vec<Feature>,
    /// Where tuned schedules are remembered; the user's cache folder where not given.
    pub store: Option<Store>,
}

/// The CPU of this machine. Cheap to clone; clones share threads and compiled code.
#[derive(Clone)]
pub struct Cpu {
    shared: Arc<Shared>,
}

struct Shared {
    isa: OwnedTargetIsa,
    target: Target,
    /// None where one thread is asked for: the caller's.
    pool: Option<ThreadPool>,
    code: CodeCache<Code>,
    store: Store,
}

impl Cpu {
    /// All cores, all instructions.
    ///
    /// # Errors
    /// [`Error::Host`] on a machine that Cranelift makes no code for; [`Error::Threads`].
    pub fn new() -> Result<Cpu, Error> {
        Cpu::with_options(CpuOptions::default())
    }

    /// `threads` threads (0 counts as 1), all instructions.
    ///
    /// # Errors
    /// As [`Cpu::new`].
    pub fn with_threads(threads: usize) -> Result<Cpu, Error> {
        Cpu::with_options(CpuOptions {
            threads: Some(threads),
            ..CpuOptions::default()
        })
    }

    /// The CPU as on a machine without some features: the same numbers (within the tolerance), more slowly.
    ///
    /// # Errors
    /// As [`Cpu::new`].
    pub fn without(features: &[Feature]) -> Result<Cpu, Error> {
        Cpu::with_options(CpuOptions {
            without: features.to_vec(),
            ..CpuOptions::default()
        })
    }

    /// Everything chosen.
    ///
    /// # Errors
    /// As [`Cpu::new`].
    pub fn with_options(options: CpuOptions) -> Result<Cpu, Error> {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or_else(available).max(1);
        let pool = (threads > 1)
            .then(|| {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|i| format!("selscan-{i}"))
                    .build()
                    .map_err(|e| Error::Threads {
                        wanted: threads,
                        why: e.to_string(),
                    })
            })
            .transpose()?;
        let isa = host::isa(&options.without)?;
        let target = host::target(&isa, threads);
        Ok(Cpu {
            shared: Arc::new(Shared {
                isa,
                target,
                pool,
                code: CodeCache::default(),
                store: options.store.unwrap_or_else(Store::user),
            }),
        })
    }

    /// What plans need to know of this machine.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.shared.target
    }
    /// How many threads run work items.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared
            .pool
            .as_ref()
            .map_or(1, ThreadPool::current_num_threads)
    }
    /// Where tuned schedules are remembered.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }
    pub(super) fn code(&self) -> &CodeCache<Code> {
        &self.shared.code
    }
    pub(super) fn isa(&self) -> &OwnedTargetIsa {
        &self.shared.isa
    }

    /// Calls `run(first, end, scratch)` so that the ranges cover `0..items` once, on every thread if `spread`.
    pub(super) fn spread(
        &self,
        items: i64,
        scratch: usize,
        spread: bool,
        run: impl Fn(i64, i64, *mut u8) + Sync,
    ) -> Result<(), Error> {
        let pool = match &self.shared.pool {
            Some(pool) if spread && items > 1 => pool,
            _ => return with_scratch(scratch, |memory| run(0, items, memory)),
        };
        let threads = pool.current_num_threads() as i64;
        let block = (items / (threads * BLOCKS_PER_THREAD)).max(1);
        let next = AtomicI64::new(0);
        let done = pool.broadcast(|_| {
            with_scratch(scratch, |memory| {
                loop {
                    // More threads than blocks can push `next` past `items`, by a block each: far from overflow.
                    let first = next.fetch_add(block, Ordering::Relaxed);
                    if first >= items {
                        break;
                    }
                    run(first, first.saturating_add(block).min(items), memory);
                }
            })
        });
        done.into_iter().collect()
    }
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cpu({})", self.target().name)
    }
}

/// Calls `f` with this thread's scratch memory, at least `bytes` long. Its contents are unspecified.
fn with_scratch<R>(bytes: usize, f: impl FnOnce(*mut u8) -> R) -> Result<R, Error> {
    thread_local! {
        static SCRATCH: RefCell<Option<Memory>> = const { RefCell::new(None) };
    }
    // Taken out while in use, so that a launch inside a launch gets memory of its own.
    let kept = SCRATCH.with(|s| s.take()).filter(|m| m.bytes() >= bytes);
    let mut memory = match kept {
        Some(memory) => memory,
        None => Memory::zeroed(bytes)?,
    };
    if cfg!(debug_assertions) {
        // A kernel that reads scratch before it writes it gets NaN, not what the last launch left.
        memory.as_mut_slice::<f32>().fill(f32::NAN);
    }
    let result = f(memory.as_mut_ptr());
    SCRATCH.with(|s| s.replace(Some(memory)));
    Ok(result)
}

/// Runs `f`; a panic in it becomes an error, made of the panic's message.
pub(super) fn contained<R>(
    panicked: impl FnOnce(String) -> Error,
    f: impl FnOnce() -> Result<R, Error>,
) -> Result<R, Error> {
    let text = |payload: &(dyn Any + Send)| {
        let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned())
    };
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| Err(panicked(text(&*payload))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_item_runs_once_with_scratch_of_its_own() {
        for threads in [1, 2, 3, 8] {
            let cpu = Cpu::with_threads(threads).unwrap();
            assert_eq!(cpu.threads(), threads);
            for items in [0, 1, 2, 7, 64, 1001] {
                let seen = Mutex::new(vec![0; items]);
                let busy = Mutex::new(std::collections::BTreeSet::new());
                cpu.spread(items as i64, 4096, true, |first, end, scratch| {
                    assert_eq!(scratch.addr() % 64, 0);
                    assert!(
                        busy.lock().unwrap().insert(scratch.addr()),
                        "shared scratch"
                    );
                    for i in first..end {
                        seen.lock().unwrap()[i as usize] += 1;
                    }
                    assert!(busy.lock().unwrap().remove(&scratch.addr()));
                })
                .unwrap();
                assert_eq!(seen.into_inner().unwrap(), vec![1; items]);
            }
        }
    }

    #[test]
    fn a_panic_on_a_thread_is_an_error_and_the_threads_go_on() {
        let cpu = Cpu::with_threads(2).unwrap();
        let panicked = |why| Error::Panicked {
            kernel: "scan".to_owned(),
            why,
        };
        let error = contained(panicked, || {
            cpu.spread(100, 0, true, |first, _, _| {
                assert!(first < 50, "item {first} is bad");
            })
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`scan` panicked: item "), "{error}");
        cpu.spread(100, 64, true, |_, _, _| {}).unwrap();
    }

    #[test]
    fn scratch_that_does_not_exist_is_an_error() {
        let cpu = Cpu::with_threads(2).unwrap();
        let error = cpu.spread(8, 1 << 60, true, |_, _, _| panic!("no memory"));
        assert!(matches!(error, Err(Error::OutOfMemory { .. })));
    }
}
