//! A recurrence made ready for code: simplified, and every state classified.
//!
//! In: a specialised recurrence of one direction ([`prepare`] makes them). Out: a [`Scan`]: the source, its
//! real and simplified form, and for each state its class and (a, b) of h' = a ⊙ h + b, or why there are none.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::affine::{self, Affine, WhyNot};
use crate::axis::AxisId;
use crate::expr::{Node, NodeId, StateId};
use crate::op::Op;
use crate::pairs::Pairs;
use crate::recurrence::Recurrence;
use crate::simplify::simplify;
use crate::summary::Chunks;

/// The kind of a state's recurrence, from the one that opens most algorithms to the one that opens none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// h' = b, or h moved by one position: a window of what came before.
    Shift,
    /// h' = a ⊙ h + b(x) with a constant in time.
    LtiDiagonal,
    /// S' = a(x) S + k ⊗ v with a free of both matrix axes.
    ScalarDecay,
    /// h' = a(x) ⊙ h + b(x).
    SelectiveDiagonal,
    /// Affine; coupled through Σₙ kₙ hₙ: a transition of rank one beside the diagonal.
    LowRank,
    /// Affine; coupled through a matrix.
    Dense,
    /// Diagonal, and reads another state: each stage by its own class.
    Staged,
    /// Not affine in its state.
    NotAffine,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Shift => "shift",
            Class::LtiDiagonal => "LTI, diagonal",
            Class::ScalarDecay => "scalar decay on a matrix state",
            Class::SelectiveDiagonal => "selective, diagonal",
            Class::LowRank => "low-rank transition",
            Class::Dense => "dense, affine",
            Class::Staged => "staged",
            Class::NotAffine => "not affine",
        })
    }
}

/// What is known of one state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateScan {
    /// Its class.
    pub class: Class,
    /// (a, b) of h' = a ⊙ h + b in the graph of [`Scan::source`], or why not.
    pub affine: Result<Affine, WhyNot>,
}

/// A recurrence of one direction, ready for code.
#[derive(Clone, PartialEq, Debug)]
pub struct Scan {
    /// The recurrence as specialised; complex where the text is. Its graph also holds every (a, b).
    pub source: Recurrence,
    /// The same in real arithmetic, simplified: what is computed.
    pub recurrence: Recurrence,
    /// One entry per state.
    pub states: Vec<StateScan>,
    /// The worst class of its states; [`Class::Shift`] where there are none.
    pub class: Class,
    pub(crate) derived: Derived,
}

/// The recurrences derived from a scan, each made when it is first asked for: simplifying takes longer than all else
/// that is decided about a kernel. Clones share them.
#[derive(Clone, Default, Debug)]
pub(crate) struct Derived(Arc<Made>);

#[derive(Default, Debug)]
pub(crate) struct Made {
    pub pairs: OnceLock<Option<Pairs>>,
    /// By [`crate::summary::Decay`].
    pub chunks: [OnceLock<Option<Chunks>>; 2],
}

/// They follow from the rest of the scan: whether they were asked for makes no difference.
impl PartialEq for Derived {
    fn eq(&self, _: &Derived) -> bool {
        true
    }
}

impl std::ops::Deref for Derived {
    type Target = Made;
    fn deref(&self) -> &Made {
        &self.0
    }
}

impl Scan {
    /// Simplifies and classifies a specialised recurrence of one direction.
    #[must_use]
    pub fn derive(r: &Recurrence) -> Scan {
        let mut source = r.clone();
        let reads = Reads::of(r);
        let states: Vec<StateScan> = r
            .state_ids()
            .map(|s| {
                let affine = affine::derive(&mut source, s, &reads.component(s));
                let staged = reads.others(s).any(|t| !r.state(t).hidden);
                let class = match &affine {
                    Err(why) => why.class,
                    Ok(_) if staged => Class::Staged,
                    Ok(Affine { a, .. }) if source.graph.as_constant(*a) == Some(0.0) => {
                        Class::Shift
                    }
                    Ok(affine) => diagonal_class(&source, s, *affine),
                };
                StateScan { class, affine }
            })
            .collect();
        let class = states.iter().map(|s| s.class).max();
        Scan {
            recurrence: simplify(&r.split_complex()),
            class: class.unwrap_or(Class::Shift),
            source,
            states,
            derived: Derived::default(),
        }
    }
}

/// The scans of a kernel for callers who give exactly the optional inputs that `present` names, and packed
/// sequences if `boundaries`: one, or one per direction in the order in which they run.
#[must_use]
pub fn prepare(r: &Recurrence, present: &dyn Fn(&str) -> bool, boundaries: bool) -> Vec<Scan> {
    let r = r.specialize(present);
    let r = if boundaries { r.with_boundaries() } else { r };
    r.split_directions().iter().map(Scan::derive).collect()
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "class: {}", self.class)?;
        for (decl, state) in self.source.states.iter().zip(&self.states) {
            write!(f, "  {}: {}", decl.name, state.class)?;
            match &state.affine {
                Ok(_) => writeln!(f, ", {0}' = a * {0} + b", decl.name)?,
                Err(why) => writeln!(f, " ({why})")?,
            }
        }
        Ok(())
    }
}

/// Which states each state's update reads.
struct Reads {
    /// `direct[s][t]`: s reads t, t ≠ s.
    direct: Vec<Vec<bool>>,
    /// The transitive closure.
    all: Vec<Vec<bool>>,
}

impl Reads {
    fn of(r: &Recurrence) -> Self {
        let n = r.states.len();
        let mut direct = vec![vec![false; n]; n];
        for (s, decl) in r.states.iter().enumerate() {
            let roots: Vec<NodeId> = [Some(decl.update), decl.update_im]
                .into_iter()
                .flatten()
                .collect();
            for id in r.graph.reachable(&roots) {
                if let Node::State { state, .. } = r.graph.node(id) {
                    direct[s][state.0 as usize] |= state.0 as usize != s;
                }
            }
        }
        let mut all = direct.clone();
        for via in 0..n {
            let through = all[via].clone();
            for row in all.iter_mut().filter(|row| row[via]) {
                for (to, from) in row.iter_mut().zip(&through) {
                    *to |= from;
                }
            }
        }
        Reads { direct, all }
    }

    fn others(&self, s: StateId) -> impl Iterator<Item = StateId> + '_ {
        let row = &self.direct[s.0 as usize];
        (0..row.len())
            .filter(|&t| row[t])
            .map(|t| StateId(t as u32))
    }

    /// The state and those that it depends on and that depend on it, in the order of their assignments.
    fn component(&self, s: StateId) -> Vec<StateId> {
        let s = s.0 as usize;
        (0..self.all.len())
            .filter(|&t| t == s || self.all[s][t] && self.all[t][s])
            .map(|t| StateId(t as u32))
            .collect()
    }
}

fn diagonal_class(r: &Recurrence, state: StateId, affine: Affine) -> Class {
    let axes = &r.state(state).axes;
    let decay = r.graph.axes(affine.a);
    let free: Vec<AxisId> = axes
        .iter()
        .copied()
        .filter(|&axis| !decay.contains(axis))
        .collect();
    let mut pairs = free
        .iter()
        .flat_map(|&p| free.iter().map(move |&q| (p, q)))
        .filter(|(p, q)| p != q);
    if pairs.any(|(p, q)| is_outer(r, affine.b, p, q)) {
        Class::ScalarDecay
    } else if r.graph.varies_in_time(affine.a) {
        Class::SelectiveDiagonal
    } else {
        Class::LtiDiagonal
    }
}

/// Whether every summand of `b` is a product k ⊗ v: a factor over p alone times one over q alone.
fn is_outer(r: &Recurrence, b: NodeId, p: AxisId, q: AxisId) -> bool {
    let g = &r.graph;
    match g.node(b) {
        Node::Op(Op::Add | Op::Sub, xs) => xs.iter().all(|&x| is_outer(r, x, p, q)),
        Node::Op(Op::Neg, xs) => is_outer(r, xs[0], p, q),
        Node::Op(Op::Select, xs) => {
            // A summand that is dropped where a sequence starts.
            xs[1..]
                .iter()
                .all(|&x| g.as_constant(x) == Some(0.0) || is_outer(r, x, p, q))
        }
        _ => {
            let (mut over_p, mut over_q, mut over_both) = (false, false, false);
            let mut factors = vec![b];
            while let Some(x) = factors.pop() {
                match g.node(x) {
                    Node::Op(Op::Mul, xs) => factors.extend(xs),
                    Node::Op(Op::Neg, xs) => factors.push(xs[0]),
                    Node::Op(Op::Div, xs) => factors.extend(xs),
                    _ => match (g.axes(x).contains(p), g.axes(x).contains(q)) {
                        (true, true) => over_both = true,
                        (true, false) => over_p = true,
                        (false, true) => over_q = true,
                        (false, false) => {}
                    },
                }
            }
            over_p && over_q && !over_both
        }
    }
}
