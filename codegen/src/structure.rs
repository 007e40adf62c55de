//! The loop structure that a recurrence allows: which axes are parallel, which are inner, and how far each
//! node is from the states.
//!
//! In: a real, single-direction [`Recurrence`]. Out: facts; the choices among them are a Schedule's.

use selscan_dsl::{AxisId, AxisIndex, AxisSet, Node, NodeId, Op, Recurrence, StateId, When};

/// How a node depends on time and on the states.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// The same at every step.
    Invariant,
    /// Varies in time, reads no state.
    Stream,
    /// Reads a state at its own point.
    State,
    /// Reads a reduction of something that reads a state.
    Post,
}

/// The loop structure of a recurrence.
#[derive(Clone, Hash, Debug)]
pub struct Structure {
    /// Axes whose points never meet: in every state and output, never reduced, shifted or aliased.
    pub parallel: Vec<AxisId>,
    /// The parallel axis that is most often innermost in memory: vector lanes run over it.
    pub lane: Option<AxisId>,
    /// Axes that are neither time nor parallel.
    pub inner: AxisSet,
    /// By node.
    pub levels: Vec<Level>,
    /// Why time cannot be tiled with the inner axes outside, if so.
    pub untileable: Option<String>,
    /// The inner axes of the states: the loops of the state nest where time is tiled.
    pub state_inner: AxisSet,
    /// By state: whether it only adds up (s' = s + x, read by nothing else) what is there after the other states of a tile.
    pub late: Vec<bool>,
}

impl Structure {
    /// Analyses a real, single-direction recurrence.
    #[must_use]
    pub fn of(rec: &Recurrence) -> Structure {
        Structure::over(rec, |_| true, None)
    }

    /// The structure of a recurrence derived from `model`: no more axes are parallel than there (so that what the
    /// points of an inner axis share is computed once), and lanes run over the same axis.
    #[must_use]
    pub fn like(rec: &Recurrence, model: &Recurrence, structure: &Structure) -> Structure {
        let same = |name: &str, axis: AxisId| model.axis_name(axis) == name;
        let parallel = |name: &str| structure.parallel.iter().any(|&a| same(name, a));
        Structure::over(rec, parallel, structure.lane.map(|a| model.axis_name(a)))
    }

    fn over(rec: &Recurrence, may: impl Fn(&str) -> bool, lane: Option<&str>) -> Structure {
        let live = rec.graph.reachable(&rec.roots());
        let mut parallel = parallel_axes(rec, &live);
        parallel.retain(|&axis| may(rec.axis_name(axis)));
        let lane = match lane {
            Some(name) => parallel.iter().copied().find(|&a| rec.axis_name(a) == name),
            None => lane_axis(rec, &live, &parallel),
        };
        let parallel_set: AxisSet = parallel.iter().copied().collect();
        let used = live.iter().fold(rec.state_axes(), |set, &id| {
            let reduced = match rec.graph.node(id) {
                Node::Reduce { axis, .. } => AxisSet::of(*axis),
                _ => AxisSet::EMPTY,
            };
            set.union(rec.graph.axes(id)).union(reduced)
        });
        let used = rec
            .outputs
            .iter()
            .fold(used, |set, o| set.union(o.axes.iter().copied().collect()));
        let inner = used.minus(parallel_set).without(rec.time);
        let levels = levels(rec);
        let added = added(rec, &live);
        let inner_of = |s: usize| {
            let axes: AxisSet = rec.states[s].axes.iter().copied().collect();
            axes.minus(parallel_set)
        };
        let own = (0..rec.states.len()).filter(|&s| added[s].is_none());
        let own = own.fold(AxisSet::EMPTY, |set, s| set.union(inner_of(s)));
        let is_late = |(s, x): (usize, &Option<Vec<NodeId>>)| {
            let post = |x: &NodeId| levels[x.0 as usize] == Level::Post;
            let late = |x: &Vec<NodeId>| inner_of(s) != own || x.iter().any(post);
            x.as_ref().is_some_and(late)
        };
        let late: Vec<bool> = added.iter().enumerate().map(is_late).collect();
        let all = rec.state_axes().minus(parallel_set);
        let state_inner = if late.contains(&true) { own } else { all };
        let untileable = untileable(rec, (&live, &added), &levels, (inner, state_inner), &late);
        Structure {
            parallel,
            lane,
            inner,
            levels,
            untileable,
            state_inner,
            late,
        }
    }

    /// The level of a node.
    #[must_use]
    pub fn level(&self, node: NodeId) -> Level {
        self.levels[node.0 as usize]
    }
    /// The inner axes that a node varies over.
    #[must_use]
    pub fn inner_axes(&self, rec: &Recurrence, node: NodeId) -> AxisSet {
        rec.graph.axes(node).intersect(self.inner)
    }
}

/// Whether each dimension is read at its own axis.
fn is_identity(declared: &[AxisId], index: &[AxisIndex]) -> bool {
    declared
        .iter()
        .zip(index)
        .all(|(&axis, &i)| i == AxisIndex::At(axis))
}

/// Whether a state read is at the reader's own point.
#[must_use]
pub fn reads_own_point(rec: &Recurrence, node: &Node) -> bool {
    match node {
        Node::State { state, index, .. } => is_identity(&rec.state(*state).axes, index),
        _ => true,
    }
}

fn parallel_axes(rec: &Recurrence, live: &[NodeId]) -> Vec<AxisId> {
    let every = |axis: AxisId| {
        rec.states.iter().all(|s| s.axes.contains(&axis))
            && rec.outputs.iter().all(|o| o.axes.contains(&axis))
    };
    let meets = |axis: AxisId| {
        live.iter().any(|&id| match rec.graph.node(id) {
            Node::Reduce { axis: reduced, .. } => rec.canonical(*reduced) == rec.canonical(axis),
            Node::Shift { axis: shifted, .. } => rec.canonical(*shifted) == rec.canonical(axis),
            Node::State { state, index, .. } => {
                let declared = &rec.state(*state).axes;
                declared
                    .iter()
                    .zip(index)
                    .any(|(&d, &i)| d == axis && i != AxisIndex::At(axis))
            }
            _ => false,
        })
    };
    let candidates = rec.states.first().map(|s| s.axes.clone());
    let candidates = candidates
        .or_else(|| rec.outputs.first().map(|o| o.axes.clone()))
        .unwrap_or_default();
    candidates
        .into_iter()
        .filter(|&axis| axis != rec.time && every(axis) && !meets(axis))
        .collect()
}

fn lane_axis(rec: &Recurrence, live: &[NodeId], parallel: &[AxisId]) -> Option<AxisId> {
    let unit_stride = |axis: AxisId| {
        let reads = live.iter().filter(|&&id| match rec.graph.node(id) {
            Node::Input { index, .. } => index.last() == Some(&AxisIndex::At(axis)),
            _ => false,
        });
        let writes = rec.outputs.iter().filter(|o| o.axes.last() == Some(&axis));
        reads.count() + writes.count()
    };
    // The later of two equals: axes are mostly declared from the outermost in.
    parallel
        .iter()
        .copied()
        .max_by_key(|&axis| unit_stride(axis))
}

fn levels(rec: &Recurrence) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::with_capacity(rec.graph.len());
    for id in rec.graph.ids() {
        let node = rec.graph.node(id);
        let below = node
            .operands()
            .iter()
            .map(|x| levels[x.0 as usize])
            .max()
            .unwrap_or(Level::Invariant);
        levels.push(match node {
            Node::State { .. } => Level::State,
            Node::Reduce { .. } if below == Level::State => Level::Post,
            _ if below == Level::Invariant && rec.graph.varies_in_time(id) => Level::Stream,
            _ => below,
        });
    }
    levels
}

/// The operation and x of s' = s + x or s' = s − x, s read at its own point; `half` is what s' is.
#[must_use]
pub fn addend(rec: &Recurrence, state: StateId, half: NodeId) -> Option<(Op, NodeId)> {
    let own = |x: &NodeId| {
        let node = rec.graph.node(*x);
        let prev = matches!(node, Node::State { state: s, when: When::Prev, .. } if *s == state);
        prev && reads_own_point(rec, node)
    };
    match rec.graph.node(half) {
        Node::Op(op @ (Op::Add | Op::Sub), xs) if own(&xs[0]) && !own(&xs[1]) => Some((*op, xs[1])),
        Node::Op(op @ Op::Add, xs) if own(&xs[1]) && !own(&xs[0]) => Some((*op, xs[0])),
        _ => None,
    }
}

/// By state: x of each half of s' = s + x, if nothing but that reads the state, and nothing reads that.
fn added(rec: &Recurrence, live: &[NodeId]) -> Vec<Option<Vec<NodeId>>> {
    let mut readers = vec![Vec::new(); rec.states.len()];
    for &id in live {
        rec.graph.node(id).each_operand(|x| {
            if let Node::State { state, .. } = rec.graph.node(x) {
                readers[state.0 as usize].push(id);
            }
        });
    }
    let roots = rec.outputs.iter().flat_map(|o| [Some(o.value), o.value_im]);
    let roots = roots.flatten();
    for root in roots.clone() {
        if let Node::State { state, .. } = rec.graph.node(root) {
            readers[state.0 as usize].push(root);
        }
    }
    let one = |s: usize| {
        let decl = &rec.states[s];
        let halves: Vec<NodeId> = [Some(decl.update), decl.update_im]
            .into_iter()
            .flatten()
            .collect();
        // The sum is one node with the same sum in an output: who reads that reads the state.
        let elsewhere = |half: &NodeId| {
            let reads = |id: &NodeId| rec.graph.node(*id).operands().contains(half);
            live.iter().any(reads) || roots.clone().any(|root| root == *half)
        };
        if readers[s].iter().any(|r| !halves.contains(r)) || halves.iter().any(elsewhere) {
            return None;
        }
        let state = StateId(s as u32);
        let x = |half: &NodeId| addend(rec, state, *half).map(|(_, x)| x);
        halves.iter().map(x).collect()
    };
    (0..rec.states.len()).map(one).collect()
}

fn untileable(
    rec: &Recurrence,
    (live, added): (&[NodeId], &[Option<Vec<NodeId>>]),
    levels: &[Level],
    (inner, state_inner): (AxisSet, AxisSet),
    late: &[bool],
) -> Option<String> {
    for (state, _) in rec.states.iter().zip(late).filter(|(_, late)| !**late) {
        if state
            .axes
            .iter()
            .copied()
            .collect::<AxisSet>()
            .intersect(inner)
            != state_inner
        {
            return Some(format!(
                "state {} has other inner axes than the other states",
                state.name
            ));
        }
        for update in [Some(state.update), state.update_im].into_iter().flatten() {
            if levels[update.0 as usize] == Level::Post {
                return Some(format!("the next {} needs a sum over a state", state.name));
            }
        }
    }
    // A reduction whose result is read at the same level as the states themselves cannot wait for the tile's end.
    let mut reads_state = vec![false; rec.graph.len()];
    for &id in live {
        let node = rec.graph.node(id);
        let below = |x: &NodeId| levels[x.0 as usize];
        match node {
            Node::State { state, .. } if !reads_own_point(rec, node) => {
                return Some(format!(
                    "state {} is read at other points than its own",
                    rec.state(*state).name
                ));
            }
            Node::Shift { .. } if levels[id.0 as usize] >= Level::State => {
                return Some("a state is shifted along an axis".into());
            }
            Node::State { state, .. } => reads_state[id.0 as usize] = !late[state.0 as usize],
            Node::Reduce { x, .. } if below(x) == Level::State => {
                if !rec.graph.axes(*x).intersect(inner).is_subset(state_inner) {
                    return Some("a sum over a state varies over axes that the state lacks".into());
                }
            }
            Node::Reduce { .. } => {}
            _ => {
                let direct = node.operands().iter().any(|x| reads_state[x.0 as usize]);
                if direct && levels[id.0 as usize] == Level::Post {
                    return Some("a value needs both a state and a sum over a state".into());
                }
                reads_state[id.0 as usize] = direct;
            }
        }
    }
    for (x, _) in added.iter().zip(late).filter(|(_, late)| **late) {
        if x.iter().flatten().any(|x| reads_state[x.0 as usize]) {
            return Some(
                "a sum over time reads a state at other points than the states have".into(),
            );
        }
    }
    for output in &rec.outputs {
        for value in [Some(output.value), output.value_im].into_iter().flatten() {
            let axes: AxisSet = output.axes.iter().copied().collect();
            if reads_state[value.0 as usize] && axes.intersect(inner) != state_inner {
                return Some(format!(
                    "output {} varies over other inner axes than the states",
                    output.name
                ));
            }
        }
    }
    None
}
