//! A sample of a kernel's numbers: the positions on every axis at which results are compared with their meaning.
//!
//! In: a kernel, extents, how many state points the meaning may be taken of. Out: [`Sample`], which picks the arguments and the
//! results at these positions. The points of a parallel axis never meet, so that what some of them mean alone is what they mean
//! among the others; where nothing runs back, the beginning of time means the same whatever comes after.

use selscan_codegen::structure::Structure;
use selscan_dsl::{
    Array, AxisId, AxisIndex, Extents, InputKind, Inputs, Node, Outputs, Recurrence,
};

use crate::error::Error;
use crate::kernel::Kernel;
use crate::spec::Spec;

/// Positions on every axis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// By axis; an alias has those of what it stands for.
    keep: Vec<Vec<usize>>,
    /// What each axis stands for: itself, if it is no alias.
    canonical: Vec<usize>,
    /// A parallel axis whose positions may be cut into parts, if there is one.
    cut: Option<AxisId>,
    /// Whether every step is there.
    whole: bool,
}

/// A parallel axis.
struct Free {
    axis: AxisId,
    /// The axis of groups of its points by which inputs are read.
    groups: Option<AxisId>,
}

impl Sample {
    /// Positions with about `most` state points: evenly spread on the parallel axes, the first and the last among them, as many in
    /// every group; all of the others, but for later steps where they would still be too many and earlier ones do not depend on them.
    ///
    /// # Errors
    /// What is wrong with the kernel for `spec`.
    pub fn of(kernel: &Kernel, spec: &Spec, extents: &Extents, most: f64) -> Result<Sample, Error> {
        let r = kernel.recurrence();
        let mut axes = free(kernel, spec)?;
        let mut sample = Sample::whole(r, extents, &axes);
        let mut points = r.points(extents);
        axes.sort_by_key(|free| std::cmp::Reverse(extents.get(free.axis)));
        for free in axes {
            points *= sample.thin(&free, most / points);
        }
        if points > most && is_causal(r) {
            let steps = extents.get(r.time);
            let few = ((steps as f64 * most / points) as usize).clamp(1.min(steps), steps);
            sample.keep[r.time.0 as usize].truncate(few);
            sample.whole = few == steps;
        }
        Ok(sample)
    }

    /// Every position.
    ///
    /// # Errors
    /// What is wrong with the kernel for `spec`.
    pub fn all(kernel: &Kernel, spec: &Spec, extents: &Extents) -> Result<Sample, Error> {
        let axes = free(kernel, spec)?;
        Ok(Sample::whole(kernel.recurrence(), extents, &axes))
    }

    fn whole(r: &Recurrence, extents: &Extents, axes: &[Free]) -> Sample {
        // Positions of several groups are not to be cut anywhere.
        let plain = axes.iter();
        let plain = plain.filter(|f| f.groups.is_none_or(|g| extents.get(g) == 1));
        Sample {
            keep: extents.0.iter().map(|&n| (0..n).collect()).collect(),
            canonical: (0..extents.0.len() as u8)
                .map(|i| r.canonical(AxisId(i)).0 as usize)
                .collect(),
            cut: plain.map(|f| f.axis).max_by_key(|&a| extents.get(a)),
            whole: true,
        }
    }

    /// Whether every step is in it, so that last states are the whole's.
    #[must_use]
    pub fn has_end(&self) -> bool {
        self.whole
    }

    /// The sample in at most `count` parts, whose meanings may be taken side by side.
    #[must_use]
    pub fn parts(&self, count: usize) -> Vec<Sample> {
        let Some(at) = self.cut.map(|a| self.canonical[a.0 as usize]) else {
            return vec![self.clone()];
        };
        let size = self.keep[at].len().div_ceil(count.max(1)).max(1);
        let part = |own: &[usize]| {
            let mut part = self.clone();
            part.keep[at] = own.to_vec();
            part
        };
        match &self.keep[at][..] {
            [] => vec![self.clone()],
            all => all.chunks(size).map(part).collect(),
        }
    }

    /// The elements of an array over `axes` at the sample's positions.
    #[must_use]
    pub fn pick(&self, array: &Array, axes: &[AxisId]) -> Array {
        let keep = axes
            .iter()
            .map(|a| &self.keep[self.canonical[a.0 as usize]][..]);
        array.picked(&keep.collect::<Vec<_>>())
    }

    /// The inputs at the sample's positions.
    #[must_use]
    pub fn inputs(&self, r: &Recurrence, all: &Inputs) -> Inputs {
        let mut part = Inputs {
            flags: all.flags.clone(),
            ..Inputs::default()
        };
        for decl in r.inputs.iter().filter(|i| i.kind == InputKind::Tensor) {
            if let Some(x) = all.tensors.get(&decl.name) {
                part.tensors
                    .insert(decl.name.clone(), self.pick(x, &decl.axes));
            }
        }
        for decl in &r.states {
            if let Some(x) = all.initial.get(&decl.name) {
                part.initial
                    .insert(decl.name.clone(), self.pick(x, &decl.axes));
            }
        }
        if let Some(x) = &all.seq_idx {
            let axes: Vec<AxisId> = r.batch_axis().into_iter().chain([r.time]).collect();
            part.seq_idx = Some(self.pick(x, &axes));
        }
        part
    }

    /// The results at the sample's positions; no last states where the last step is not among them.
    #[must_use]
    pub fn outputs(&self, r: &Recurrence, all: &Outputs) -> Outputs {
        let mut part = Outputs::default();
        for decl in &r.outputs {
            if let Some(x) = all.tensors.get(&decl.name) {
                part.tensors
                    .insert(decl.name.clone(), self.pick(x, &decl.axes));
            }
        }
        for decl in r.states.iter().filter(|_| self.whole) {
            if let Some(x) = all.last.get(&decl.name) {
                part.last
                    .insert(decl.name.clone(), self.pick(x, &decl.axes));
            }
        }
        part
    }

    /// Keeps about `part` of an axis's positions; says which part is kept.
    fn thin(&mut self, free: &Free, part: f64) -> f64 {
        let at = |axis: AxisId| self.canonical[axis.0 as usize];
        let groups = free.groups.map_or(1, |g| self.keep[at(g)].len());
        let at = at(free.axis);
        let own = &mut self.keep[at];
        let n = own.len() / groups.max(1);
        let few = ((n as f64 * part).ceil() as usize).max(2);
        if part >= 1.0 || few >= n {
            return 1.0;
        }
        let places = |group: usize| (0..few).map(move |i| group * n + i * (n - 1) / (few - 1));
        *own = (0..groups).flat_map(places).collect();
        few as f64 / n as f64
    }
}

/// Axes whose points never meet, in any stage, and whose positions and extents are not themselves computed with, but for one
/// division into groups.
fn free(kernel: &Kernel, spec: &Spec) -> Result<Vec<Free>, Error> {
    let r = kernel.recurrence();
    let scans = kernel.scans(spec)?;
    let structures: Vec<Structure> = scans.iter().map(|s| Structure::of(&s.recurrence)).collect();
    let free = |axis: AxisId| {
        let mut groups = None;
        for id in r.graph.ids() {
            let index = match r.graph.node(id) {
                Node::Index(a) | Node::Extent(a) if *a == axis => return None,
                Node::Input { index, .. } | Node::State { index, .. } => index,
                _ => continue,
            };
            for &i in index {
                match i {
                    AxisIndex::Group { of, groups: own } if of == axis => {
                        if groups.is_some_and(|g| g != own) {
                            return None;
                        }
                        groups = Some(own);
                    }
                    AxisIndex::Group { groups: own, .. } if own == axis => return None,
                    AxisIndex::At(a) if a != axis && r.canonical(a) == axis => return None,
                    AxisIndex::Group { .. } | AxisIndex::At(_) => {}
                }
            }
        }
        Some(Free { axis, groups })
    };
    let mut axes = structures.first().map_or(vec![], |s| s.parallel.clone());
    axes.retain(|axis| structures.iter().all(|s| s.parallel.contains(axis)));
    Ok(axes.into_iter().filter_map(free).collect())
}

/// Whether an output depends on no later step.
fn is_causal(r: &Recurrence) -> bool {
    let late = |id| matches!(r.graph.node(id), Node::Extent(a) if *a == r.time);
    r.states.iter().all(|s| !s.reverse) && !r.graph.ids().any(late)
}
