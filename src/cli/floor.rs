//! What a GPU allows at best: the time that its memory takes to move a run's tensors once, and its exponential unit to
//! compute the run's exponentials and their like.
//!
//! In: a kernel, what it is called with, bytes. Out: [`Floor`]. No schedule can be faster by its memory; one that computes some exponentials in the
//! multiplication units may be by the other.

use selscan_codegen::Ty;
use selscan_codegen::cost::{self, SPECIALS};
use selscan_dsl::{Extents, Node, NodeId, Recurrence};
use selscan_runtime::{Error, Kernel, Spec};
use serde_json::{Value, json};

/// What a run needs of a GPU, and what the GPU gives.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Floor {
    /// Bytes that move.
    pub bytes: f64,
    /// Bytes a second.
    pub bandwidth: f64,
    /// Exponentials and their like; 0 in f64, which their unit does not have.
    pub specials: f64,
    /// Of them a second.
    pub rate: f64,
}

impl Floor {
    /// That of a call that moves `bytes`, on a GPU.
    pub fn of(
        kernel: &Kernel,
        spec: &Spec,
        extents: &Extents,
        bytes: f64,
    ) -> Result<Option<Floor>, Error> {
        let Some(gpu) = &kernel.device().target().gpu else {
            return Ok(None);
        };
        let specials = match spec.compute() {
            Ty::F64 => 0.0,
            _ => specials(kernel, spec, extents)?,
        };
        let floor = Floor {
            bytes,
            bandwidth: gpu.bandwidth as f64,
            specials,
            rate: SPECIALS * f64::from(gpu.multiprocessors) * f64::from(gpu.clock_khz) * 1e3,
        };
        // Some virtual GPUs do not tell their clocks.
        Ok(Some(floor).filter(|f| f.bandwidth > 0.0 && f.rate > 0.0))
    }

    /// The least seconds by its bytes.
    pub fn memory(self) -> f64 {
        self.bytes / self.bandwidth
    }

    /// The least seconds by its exponentials.
    pub fn special(self) -> f64 {
        self.specials / self.rate
    }

    /// The least seconds.
    pub fn seconds(self) -> f64 {
        self.memory().max(self.special())
    }

    /// What binds.
    pub fn what(self) -> &'static str {
        if self.memory() >= self.special() {
            "memory"
        } else {
            "exponentials"
        }
    }

    /// For machines.
    pub fn json(self) -> Value {
        json!({
            "seconds": self.seconds(), "by": self.what(),
            "bytes": self.bytes, "bytes_per_second": self.bandwidth, "memory_seconds": self.memory(),
            "exponentials": self.specials, "exponentials_per_second": self.rate, "exponentials_seconds": self.special(),
        })
    }
}

/// How many results of the special unit a run needs.
fn specials(kernel: &Kernel, spec: &Spec, extents: &Extents) -> Result<f64, Error> {
    let mut sum = 0.0;
    for scan in kernel.scans(spec)? {
        let r = &scan.recurrence;
        for id in r.graph.reachable(&r.roots()) {
            if let Node::Op(op, _) = r.graph.node(id) {
                sum += cost::specials(*op) * points(extents, r, id);
            }
        }
    }
    Ok(sum)
}

/// At how many points a value is computed.
fn points(extents: &Extents, r: &Recurrence, id: NodeId) -> f64 {
    let mut axes = r.graph.axes(id);
    if r.graph.varies_in_time(id) {
        axes = axes.with(r.time);
    }
    axes.iter().map(|a| extents.get(a) as f64).product()
}
