//! What one item body computes apart: the states' updates, the outputs, every reduction, and each value worth
//! keeping in memory because another loop nest reads it over more axes.
//!
//! In: a pass. Out: [`Work`] in an order in which everything comes before what reads it.

use selscan_dsl::{AxisSet, Node, NodeId, StateId, Type, When};

use crate::plan::Pass;
use crate::schedule::Order;
use crate::structure::{Level, reads_own_point};

/// What is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// A value kept in memory.
    Value(NodeId),
    /// A reduction.
    Reduce(NodeId),
    /// Both halves of a state's next value.
    Update(StateId),
    /// Both halves of an output.
    Output(usize),
}

/// One thing to compute, in a loop nest of its own or shared.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub what: What,
    pub level: Level,
    /// Whether it reads a state other than through a reduction.
    pub direct: bool,
    /// The inner axes that it loops over.
    pub loops: AxisSet,
    /// Work that must come before it.
    pub after: Vec<usize>,
    /// States that it reads: which, when, and whether at its own point.
    pub reads: Vec<(StateId, When, bool)>,
}

/// Cost from which a value is worth a place in memory (an exponential is 10).
const WORTH: u32 = 8;

/// The work of a pass, sorted.
pub(super) fn select(pass: &Pass) -> Vec<Work> {
    let (rec, structure) = (&pass.recurrence, &pass.structure);
    let graph = &rec.graph;
    let new = |what, level, loops| Work {
        what,
        level,
        direct: false,
        loops,
        after: vec![],
        reads: vec![],
    };
    let mut work: Vec<Work> = Vec::new();
    let mut readers: Vec<Vec<usize>> = vec![vec![]; graph.len()];
    for s in rec.state_ids() {
        let axes: AxisSet = rec.state(s).axes.iter().copied().collect();
        for root in [Some(rec.state(s).update), rec.state(s).update_im]
            .into_iter()
            .flatten()
        {
            readers[root.0 as usize].push(work.len());
        }
        work.push(new(
            What::Update(s),
            Level::State,
            axes.intersect(structure.inner),
        ));
    }
    for (i, output) in rec.outputs.iter().enumerate() {
        let axes: AxisSet = output.axes.iter().copied().collect();
        let roots = [Some(output.value), output.value_im].into_iter().flatten();
        let level = roots
            .clone()
            .map(|r| structure.level(r))
            .max()
            .unwrap_or(Level::Stream);
        for root in roots {
            readers[root.0 as usize].push(work.len());
        }
        work.push(new(What::Output(i), level, axes.intersect(structure.inner)));
    }
    let costs = costs(pass);
    for id in graph.ids().collect::<Vec<_>>().into_iter().rev() {
        let mut by = std::mem::take(&mut readers[id.0 as usize]);
        by.sort_unstable();
        by.dedup();
        if by.is_empty() {
            continue;
        }
        let node = graph.node(id);
        if let Node::State { state, when, .. } = node {
            note_read(&mut work, &by, *state, *when, reads_own_point(rec, node));
            continue;
        }
        let (what, loops) = match node {
            Node::Reduce { axis, x, .. } => (
                Some(What::Reduce(id)),
                structure.inner_axes(rec, *x).with(*axis),
            ),
            _ if worth_storing(pass, &work, &by, id, costs[id.0 as usize]) => {
                (Some(What::Value(id)), structure.inner_axes(rec, id))
            }
            _ => (None, AxisSet::EMPTY),
        };
        if let Some(what) = what {
            for &reader in &by {
                let own = work.len();
                work[reader].after.push(own);
            }
            by = vec![work.len()];
            work.push(new(what, structure.level(id), loops));
        }
        if let Node::Shift { x, fill, .. } = node {
            match graph.node(*x) {
                Node::State { state, when, .. } => note_read(&mut work, &by, *state, *when, false),
                _ => readers[x.0 as usize].extend(&by),
            }
            readers[fill.0 as usize].extend(&by);
        } else {
            for x in node.operands() {
                readers[x.0 as usize].extend(&by);
            }
        }
    }
    sorted(work)
}

fn note_read(work: &mut [Work], by: &[usize], state: StateId, when: When, own_point: bool) {
    for &reader in by {
        work[reader].direct = true;
        work[reader].reads.push((state, when, own_point));
        if when == When::Next && reader != state.0 as usize {
            // Updates are the first entries, in the order of the states.
            work[reader].after.push(state.0 as usize);
        }
    }
}

/// The cost of each node with all that it reads.
fn costs(pass: &Pass) -> Vec<u32> {
    let graph = &pass.recurrence.graph;
    let mut costs: Vec<u32> = Vec::with_capacity(graph.len());
    for id in graph.ids() {
        let node = graph.node(id);
        let own = if let Node::Op(op, _) = node {
            op.info().cost
        } else {
            0
        };
        let below = node
            .operands()
            .iter()
            .fold(0_u32, |sum, x| sum.saturating_add(costs[x.0 as usize]));
        costs.push(own.saturating_add(below));
    }
    costs
}

fn worth_storing(pass: &Pass, work: &[Work], by: &[usize], id: NodeId, cost: u32) -> bool {
    let (rec, structure) = (&pass.recurrence, &pass.structure);
    let graph = &rec.graph;
    let own = structure.inner_axes(rec, id);
    let level = structure.level(id);
    if graph.ty(id) != Type::Real || pass.schedule.order == Order::Registers {
        return false;
    }
    let operation = matches!(graph.node(id), Node::Op(..) | Node::Shift { .. });
    if level == Level::Invariant {
        // Without inner axes the builder hoists it out of time by itself.
        return operation
            && !own.is_empty()
            && cost >= WORTH
            && by.iter().any(|&r| work[r].level > Level::Invariant);
    }
    let wider = |r: usize| own != work[r].loops && own.is_subset(work[r].loops);
    if pass.schedule.order == Order::Tiled {
        // Time runs innermost there: nothing that varies in time hoists out of the inner axes.
        let in_state_nest = |r: usize| {
            matches!(work[r].what, What::Update(_))
                || work[r].level == Level::State
                || feeds_state(pass, work, r)
        };
        let read_in_nest = by.iter().any(|&r| in_state_nest(r) && wider(r));
        if level == Level::Stream && read_in_nest {
            return operation || is_costly_read(pass, id);
        }
        return level != Level::State && operation && cost >= WORTH && by.iter().any(|&r| wider(r));
    }
    operation && !own.is_empty() && cost >= WORTH && (by.len() > 1 || by.iter().any(|&r| wider(r)))
}

/// Whether a piece of work is a reduction over something that reads a state.
fn feeds_state(pass: &Pass, work: &[Work], reader: usize) -> bool {
    match work[reader].what {
        What::Reduce(id) => match pass.recurrence.graph.node(id) {
            Node::Reduce { x, .. } => pass.structure.level(*x) == Level::State,
            _ => false,
        },
        _ => work[reader].direct,
    }
}

/// Whether reading an input's element costs more than a vector load: gathered, or stored in 16 bits.
fn is_costly_read(pass: &Pass, id: NodeId) -> bool {
    match pass.recurrence.graph.node(id) {
        Node::Input { input, index, .. } => {
            let lane = pass.structure.lane;
            let varies = index.iter().any(|i| Some(i.axis()) == lane);
            let unit = index.last().is_some_and(|i| Some(i.axis()) == lane);
            varies && (!unit || pass.inputs[input.0 as usize].1.bytes() == 2)
        }
        _ => false,
    }
}

/// The same work, each piece after those that it names.
fn sorted(work: Vec<Work>) -> Vec<Work> {
    fn visit(work: &[Work], i: usize, place: &mut [usize], order: &mut Vec<usize>) {
        if place[i] != usize::MAX {
            return;
        }
        place[i] = usize::MAX - 1;
        for &before in &work[i].after {
            visit(work, before, place, order);
        }
        place[i] = order.len();
        order.push(i);
    }
    let mut place = vec![usize::MAX; work.len()];
    let mut order = Vec::new();
    for i in 0..work.len() {
        visit(&work, i, &mut place, &mut order);
    }
    let renamed = |i: usize| {
        let mut w = work[i].clone();
        w.after = w.after.iter().map(|&k| place[k]).collect();
        w
    };
    order.iter().map(|&i| renamed(i)).collect()
}
