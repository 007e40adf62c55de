//! Compiled code in memory: one copy of equal programs, compiled once however many threads ask for it.
//!
//! In: a plan's fingerprint, or the program that was lowered from it (its text decides the code, together with the device
//! that owns the cache; different plans may have one program). Out: its code. The cache does not keep code alive: it is
//! freed with the last kernel that uses it.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustc_hash::FxHasher;
use selscan_codegen::Fingerprint;
use selscan_codegen::loop_ir::Program;

use crate::error::Error;

/// The programs of one device, whose code is a `C`.
pub(crate) struct CodeCache<C> {
    slots: Mutex<HashMap<u64, Vec<Arc<Slot<C>>>>>,
    plans: Mutex<HashMap<Fingerprint, Weak<C>>>,
}

/// A program and its code, once there is some.
struct Slot<C> {
    program: Arc<Program>,
    code: Mutex<Weak<C>>,
}

impl<C> Default for CodeCache<C> {
    fn default() -> Self {
        CodeCache {
            slots: Mutex::default(),
            plans: Mutex::default(),
        }
    }
}

/// A lock that a panic elsewhere does not poison: what it guards is always whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C> CodeCache<C> {
    /// The code of a plan that was made or found before, without its program.
    pub(crate) fn of_plan(&self, plan: &Fingerprint) -> Option<Arc<C>> {
        lock(&self.plans).get(plan).and_then(Weak::upgrade)
    }

    /// Remembers the code of a plan for as long as somebody uses it.
    pub(crate) fn keep(&self, plan: Fingerprint, code: &Arc<C>) {
        let mut plans = lock(&self.plans);
        plans.retain(|_, code| code.strong_count() > 0);
        plans.insert(plan, Arc::downgrade(code));
    }

    /// The code of `program`: that of an equal one, or what `compile` makes. Others who ask for the same program
    /// meanwhile wait for it; if it fails, the next one tries again.
    pub(crate) fn get_or_compile(
        &self,
        program: Program,
        compile: impl FnOnce(&Arc<Program>) -> Result<C, Error>,
    ) -> Result<Arc<C>, Error> {
        let slot = self.slot(program);
        let mut code = lock(&slot.code);
        if let Some(code) = code.upgrade() {
            return Ok(code);
        }
        let made = Arc::new(compile(&slot.program)?);
        *code = Arc::downgrade(&made);
        Ok(made)
    }

    fn slot(&self, program: Program) -> Arc<Slot<C>> {
        // Programs are long, and compared where their hashes are equal.
        let mut hasher = FxHasher::default();
        program.hash(&mut hasher);
        let mut slots = lock(&self.slots);
        // Code that was freed leaves its slot to be swept, unless somebody is compiling in it.
        slots.retain(|_, slots| {
            slots.retain(|s| Arc::strong_count(s) > 1 || lock(&s.code).strong_count() > 0);
            !slots.is_empty()
        });
        let slots = slots.entry(hasher.finish()).or_default();
        match slots.iter().find(|s| *s.program == program) {
            Some(slot) => slot.clone(),
            None => {
                let slot = Arc::new(Slot {
                    program: Arc::new(program),
                    code: Mutex::new(Weak::new()),
                });
                slots.push(slot.clone());
                slot
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use selscan_codegen::Dtype;
    use selscan_codegen::loop_ir::Ix;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn program(len: i64) -> Program {
        Program {
            procs: vec![],
            workspaces: vec![(Dtype::F32, Ix::Const(len))],
        }
    }

    #[test]
    fn equal_programs_are_compiled_once_and_freed_with_their_last_user() {
        let cache = CodeCache::default();
        let compiled = AtomicUsize::new(0);
        let get = |len: i64| {
            let compile = |_: &Arc<Program>| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                compiled.fetch_add(1, Ordering::SeqCst);
                Ok(len)
            };
            cache.get_or_compile(program(len), compile).unwrap()
        };
        let codes: Vec<Arc<i64>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || get(i % 2))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(compiled.load(Ordering::SeqCst), 2);
        assert!(
            codes
                .iter()
                .enumerate()
                .all(|(i, code)| **code == i as i64 % 2)
        );
        assert_eq!(Arc::strong_count(&codes[0]), 4);
        drop(codes);
        get(7);
        assert_eq!(lock(&cache.slots).len(), 1, "freed code leaves no slot");
        get(0);
        assert_eq!(compiled.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn a_failure_is_not_remembered() {
        let cache = CodeCache::default();
        let fail = |_: &Arc<Program>| Err(Error::Host("no".into()));
        assert!(cache.get_or_compile(program(1), fail).is_err());
        assert_eq!(*cache.get_or_compile(program(1), |_| Ok(5)).unwrap(), 5);
    }
}
