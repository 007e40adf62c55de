//! Values of nodes and states at one time step, and where the points of one lie in another.

use num_complex::Complex64 as C64;

use crate::array::{Array, positions, strides};
use crate::axis::{AxisId, Extents};
use crate::expr::{AxisIndex, Graph, NodeId};
use crate::recurrence::Recurrence;

/// The values of a node or of a state: one number a point.
#[derive(Clone, Default)]
pub(super) struct Value {
    /// Real values, or real halves.
    pub re: Vec<f64>,
    /// Imaginary halves; empty if real.
    pub im: Vec<f64>,
    /// Error bounds in units of eps, m ≥ |value|; empty if not asked for.
    pub m: Vec<f64>,
}

impl Value {
    /// One value everywhere.
    pub fn new(points: usize, complex: bool, bound: bool, value: f64) -> Value {
        Value {
            re: vec![value; points],
            im: vec![0.0; if complex { points } else { 0 }],
            m: vec![value.abs(); if bound { points } else { 0 }],
        }
    }
    /// The elements of an array; their bounds are their magnitudes.
    pub fn of(array: &Array, bound: bool) -> Value {
        let (re, im): (Vec<f64>, Vec<f64>) = if array.complex {
            array.data.chunks_exact(2).map(|x| (x[0], x[1])).unzip()
        } else {
            (array.data.clone(), vec![])
        };
        let m = match (bound, array.complex) {
            (false, _) => vec![],
            (true, false) => re.iter().map(|x| x.abs()).collect(),
            (true, true) => re.iter().zip(&im).map(|(x, y)| x.hypot(*y)).collect(),
        };
        Value { re, im, m }
    }
    /// A point; the imaginary half of a real value is 0.
    pub fn at(&self, point: usize) -> C64 {
        C64::new(self.re[point], self.im.get(point).copied().unwrap_or(0.0))
    }
    /// Sets a point; a real value keeps the real half.
    pub fn put(&mut self, point: usize, x: C64, m: f64) {
        self.re[point] = x.re;
        if !self.im.is_empty() {
            self.im[point] = x.im;
        }
        if !self.m.is_empty() {
            self.m[point] = m;
        }
    }
    /// The numbers in the order of an [`Array`], then the bounds in the same order (empty if not asked for).
    pub fn interleaved(self) -> (Vec<f64>, Vec<f64>) {
        if self.im.is_empty() {
            return (self.re, self.m);
        }
        let halves = self.re.iter().zip(&self.im);
        let m = self.m.iter().flat_map(|&m| [m, m]).collect();
        (halves.flat_map(|(&re, &im)| [re, im]).collect(), m)
    }
    /// Copies the point `from` of another value; a real value into a complex one has no imaginary half.
    pub fn copy(&mut self, to: usize, other: &Value, from: usize) {
        self.put(to, other.at(from), other.bound(from));
    }
    /// The bound of a point, 0 if not asked for.
    pub fn bound(&self, point: usize) -> f64 {
        self.m.get(point).copied().unwrap_or(0.0)
    }
}

/// The non-time axes of a node in ascending order: how its points are laid out.
pub(super) fn layout(graph: &Graph, id: NodeId) -> Vec<AxisId> {
    graph.axes(id).without(graph.time()).iter().collect()
}

/// Where each point of one layout lies in another.
pub(super) enum Gather {
    /// At the same place.
    Same,
    /// At these places.
    Table(Vec<usize>),
}

impl Gather {
    /// Where a point lies.
    pub fn at(&self, point: usize) -> usize {
        match self {
            Gather::Same => point,
            Gather::Table(table) => table[point],
        }
    }
    /// From points over `to` to points over `from`, which has no other axes.
    pub fn new(to: &[AxisId], from: &[AxisId], extents: &Extents) -> Gather {
        if to == from {
            return Gather::Same;
        }
        let own = strides(&extents.shape(from));
        let stride = |axis: AxisId| from.iter().position(|&f| f == axis).map_or(0, |i| own[i]);
        Gather::Table(positions(&extents.shape(to), |i, at| stride(to[i]) * at))
    }
}

/// The elements of a stored tensor that a read touches: a table over the node's points, plus a part that
/// grows with time, Σ (t / divisor)·stride.
pub(super) struct Read {
    /// By point: its place at time 0.
    pub at: Vec<usize>,
    time: Vec<(usize, usize)>,
}

impl Read {
    pub fn new(
        r: &Recurrence,
        to: &[AxisId],
        axes: &[AxisId],
        index: &[AxisIndex],
        e: &Extents,
    ) -> Read {
        let own = strides(&e.shape(axes));
        let divisor = |index: AxisIndex| match index {
            AxisIndex::At(_) => 1,
            AxisIndex::Group { of, groups } => (e.get(of) / e.get(groups).max(1)).max(1),
        };
        let terms: Vec<(AxisId, usize, usize)> = index
            .iter()
            .zip(own)
            .map(|(&i, stride)| (i.axis(), divisor(i), stride))
            .collect();
        let step = |axis: AxisId, at: usize| {
            let along = terms.iter().filter(|(a, _, _)| *a == axis);
            along
                .map(|(_, divisor, stride)| at / divisor * stride)
                .sum()
        };
        Read {
            at: positions(&e.shape(to), |i, at| step(to[i], at)),
            time: terms
                .iter()
                .filter(|(a, _, _)| *a == r.time)
                .map(|&(_, divisor, stride)| (divisor, stride))
                .collect(),
        }
    }
    /// What time adds to every place.
    pub fn base(&self, t: usize) -> usize {
        self.time
            .iter()
            .map(|(divisor, stride)| t / divisor * stride)
            .sum()
    }
}
