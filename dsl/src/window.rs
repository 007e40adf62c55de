//! Windows: states of which nothing is left after some steps, so that time can be cut without a sum over what came before.
//!
//! In: a real recurrence and extents. Out: [`reach`], how many steps that is.

use crate::axis::Extents;
use crate::expr::{AxisIndex, Node, NodeId, StateId, When};
use crate::recurrence::Recurrence;

/// After how many steps every state is the same whatever it was before them: the longest way through states that are new at
/// every step (h' = x: 1) or move by one position of an axis of n points (`push_back::<N>(h, x)`: n). `None` where a state
/// keeps anything of itself.
#[must_use]
pub fn reach(r: &Recurrence, extents: &Extents) -> Option<usize> {
    let mut open = vec![false; r.states.len()];
    r.state_ids()
        .map(|state| of(r, extents, state, &mut open))
        .try_fold(0, |most, steps| Some(most.max(steps?)))
}

/// That of one state; `open` has those that are being asked for, which none may come back to.
fn of(r: &Recurrence, extents: &Extents, state: StateId, open: &mut [bool]) -> Option<usize> {
    if std::mem::replace(&mut open[state.0 as usize], true) {
        return None;
    }
    let decl = r.state(state);
    let mut most = 0;
    for root in [Some(decl.update), decl.update_im].into_iter().flatten() {
        let (own, reads) = match r.graph.node(root) {
            Node::Shift { axis, x, fill, .. } if is_itself(r, state, *x) => {
                (extents.get(*axis), *fill)
            }
            _ => (1, root),
        };
        most = most.max(own);
        for id in r.graph.reachable(&[reads]) {
            if let Node::State { state: read, .. } = r.graph.node(id) {
                most = most.max(own + of(r, extents, *read, open)?);
            }
        }
    }
    open[state.0 as usize] = false;
    Some(most)
}

/// Whether a node is the state before the step, at its own point.
fn is_itself(r: &Recurrence, of: StateId, node: NodeId) -> bool {
    let own = |(index, axis): (&AxisIndex, &crate::AxisId)| *index == AxisIndex::At(*axis);
    match r.graph.node(node) {
        Node::State {
            state, when, index, ..
        } => {
            let axes = &r.state(of).axes;
            *state == of && *when == When::Prev && index.iter().zip(axes).all(own)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::scan::prepare;

    fn reach_of(states: &str, steps: &str, out: &str) -> Option<usize> {
        let text = format!(
            "fn f(x: Tensor<B, L, D>, w: Tensor<D, W>{states}) -> Tensor<B, L, D> \
             {{ {steps} ({out}) * sum::<W>(w) }}"
        );
        let scans = prepare(&Recurrence::parse(&text).unwrap(), &|_| true, false);
        let r = &scans[0].recurrence;
        let extents = r.axes.iter().map(|a| if a.name == "W" { 4 } else { 7 });
        reach(r, &Extents(extents.collect()))
    }

    #[test]
    fn what_forgets_has_a_reach() {
        let window = ", h: State<B, D, W>";
        let steps = "h = push_back::<W>(h, x);";
        assert_eq!(reach_of(window, steps, "sum::<W>(w * h)"), Some(4));
        assert_eq!(reach_of("", "", "x + delay(x, 3)"), Some(3));
        assert_eq!(reach_of(", h: State<B, D>", "h = 2.0 * x;", "h"), Some(1));
        // One window of another.
        let two = ", h: State<B, D, W>, g: State<B, D, W>";
        let steps = "h = push_back::<W>(h, x); g = push_back::<W>(g, sum::<W>(w * h));";
        assert_eq!(reach_of(two, steps, "sum::<W>(g)"), Some(8));
    }

    #[test]
    fn what_keeps_something_has_none() {
        let window = ", h: State<B, D, W>";
        for update in [
            "push_back::<W>(h, x) + h",
            "push_back::<W>(h, x + sum::<W>(h))",
            "0.5 * push_back::<W>(h, x)",
        ] {
            let steps = format!("h = {update};");
            assert_eq!(reach_of(window, &steps, "sum::<W>(h)"), None, "{update}");
        }
        for update in ["0.5 * h + x", "x + delay(h, 2)"] {
            let steps = format!("h = {update};");
            assert_eq!(reach_of(", h: State<B, D>", &steps, "h"), None, "{update}");
        }
    }
}
