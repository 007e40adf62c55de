//! What the caller of a kernel wants of it besides the recurrence: precision, storage types, which states go in and out.

use std::collections::{BTreeMap, BTreeSet};

use crate::dtype::{Dtype, Ty};

/// What the caller of a kernel wants of it, besides the recurrence.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Options {
    /// The precision of arithmetic: [`Ty::F32`] or [`Ty::F64`].
    pub compute: Ty,
    /// How tensors lie in memory, by the name of the input, state or output; others are of the compute type.
    pub storage: BTreeMap<String, Dtype>,
    /// States whose initial value the caller gives (others start at 0).
    pub initial: BTreeSet<String>,
    /// States whose last value the caller wants.
    pub last: BTreeSet<String>,
    /// Steps of the chunks of time before which states are saved for a gradient; 0: none is wanted.
    pub save: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            compute: Ty::F32,
            storage: BTreeMap::new(),
            initial: BTreeSet::new(),
            last: BTreeSet::new(),
            save: 0,
        }
    }
}

impl Options {
    /// How the tensor of that name lies in memory.
    #[must_use]
    pub fn dtype(&self, name: &str) -> Dtype {
        self.storage
            .get(name)
            .copied()
            .unwrap_or(self.compute_dtype())
    }
    /// The storage type of the compute type.
    #[must_use]
    pub fn compute_dtype(&self) -> Dtype {
        self.compute.storage()
    }
}
