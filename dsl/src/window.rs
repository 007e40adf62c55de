//! Windows: states of which nothing is left after some steps, so that time can be cut without a sum over what came before.
//!
//! In: a real recurrence and extents. Out: [`reach`], how many steps that is.

use crate::affine::plain_index;
use crate::axis::Extents;
use crate::expr::{Node, NodeId, StateId, When};
use crate::recurrence::Recurrence;

/// After how many steps every state is the same whatever it was before them: the longest way through states that are new at
/// every step (h' = x: 1) or move by one position of an axis of n points (`push_back::<N>(h, x)`: n). `None` where a state
/// keeps anything of itself.
#[must_use]
pub fn reach(r: &Recurrence, extents: &Extents) -> Option<usize> {
    let mut known = vec![Reach::Unknown; r.states.len()];
    r.state_ids()
        .map(|state| of(r, extents, state, &mut known))
        .try_fold(0, |most, steps| Some(most.max(steps?)))
}

/// What is known of a state's.
#[derive(Clone, Copy)]
enum Reach {
    Unknown,
    /// It is being asked for: who comes back to it keeps something of itself.
    Open,
    Steps(usize),
}

/// That of one state.
fn of(r: &Recurrence, extents: &Extents, state: StateId, known: &mut [Reach]) -> Option<usize> {
    match known[state.0 as usize] {
        Reach::Unknown => known[state.0 as usize] = Reach::Open,
        Reach::Open => return None,
        Reach::Steps(steps) => return Some(steps),
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
                most = most.max(own + of(r, extents, *read, known)?);
            }
        }
    }
    known[state.0 as usize] = Reach::Steps(most);
    Some(most)
}

/// Whether a node is the state before the step, at its own point.
fn is_itself(r: &Recurrence, of: StateId, node: NodeId) -> bool {
    match r.graph.node(node) {
        Node::State {
            state, when, index, ..
        } => *state == of && *when == When::Prev && *index == plain_index(r, of),
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
