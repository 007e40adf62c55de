//! Inputs loaded one turn ahead of their use, so that a loop does not wait for memory at every turn.
//!
//! In: a proc. Out: the proc with the loads of inputs in each innermost serial loop as
//!
//! ```text
//! fetch w = x[lo]
//! for t { [r] = w;  fetch w = x[next t];  … r … }
//! ```
//! In loops over time what later turns load is also brought near (into the GPU's second-level cache): `turns` turns
//! ahead in an innermost loop, one in a loop over tiles. What is fetched stays as it lies in memory (16 bytes are four
//! registers, whatever they hold) until it is taken. The last turn fetches its own elements once more: never what is beyond
//! the loop. In a loop over tiles, what is read after the steps of a tile is fetched before them, in the same turn: they take
//! long enough, and a turn's end waits for nothing. Where steps leave few registers, the next tile is fetched after them
//! instead, and what is read both before and after them is fetched once.

use crate::loop_ir::{Buf, Ix, LoopKind, Proc, Reg, Rhs, Role, Row, Stmt, Var};

/// When loops over tiles load ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tiles {
    /// Not at all.
    Never,
    /// Where they load: what arrives takes registers through all of a tile.
    Before,
    /// After the steps of a tile.
    After,
}

/// The proc with inputs loaded ahead; those of loops over time are brought near `turns` turns ahead.
#[must_use]
pub fn ahead(mut proc: Proc, turns: u32, tiles: Tiles) -> Proc {
    let body = std::mem::take(&mut proc.body);
    proc.body = block(&mut proc, body, (i64::from(turns), tiles));
    proc
}

fn block(proc: &mut Proc, body: Vec<Stmt>, (far, tiles): (i64, Tiles)) -> Vec<Stmt> {
    let mut out = Vec::with_capacity(body.len());
    for stmt in body {
        match stmt {
            Stmt::For {
                var,
                kind: LoopKind::Serial,
                lo,
                hi,
                step,
                body,
            } => {
                // The variable's value in the last turn; in the first one, should there be none.
                let turns = (hi.clone() - lo.clone() + Ix::Const(-1)) / Ix::Const(step);
                let last = lo.clone() + turns * Ix::Const(step);
                let later = |k: i64| (Ix::Var(var) + Ix::Const(k * step)).min(last.clone());
                let innermost = !body.iter().any(has_loop);
                let fixed = matches!((&lo, &hi), (Ix::Const(_), Ix::Const(_)));
                let mut fetched = Vec::new();
                let mut turn_body = Vec::new();
                if !fixed && (innermost || tiles == Tiles::Never) {
                    let distance = if innermost { far } else { 1 };
                    near(proc, &body, var, &later(distance), &mut turn_body);
                }
                if innermost {
                    turn_body.extend(turn(proc, body, var, &later(1), &mut fetched));
                } else {
                    let body = match tiles {
                        Tiles::Before if !fixed => turn(proc, body, var, &later(1), &mut fetched),
                        Tiles::After if !fixed => {
                            turn_after(proc, body, var, &later(1), &mut fetched)
                        }
                        _ => body,
                    };
                    turn_body.extend(block(proc, body, (far, tiles)));
                }
                let first = fetched
                    .into_iter()
                    .map(|(row, buf, ix)| Stmt::Fetch(row, buf, ix.substitute(var, &lo)));
                let first: Vec<Stmt> = first.collect();
                // A loop that may have no turn must not read what is not there.
                if first.is_empty() || matches!((&lo, &hi), (Ix::Const(a), Ix::Const(b)) if a < b) {
                    out.extend(first);
                } else {
                    out.push(Stmt::If {
                        lhs: lo.clone(),
                        rhs: hi.clone(),
                        then: first,
                        els: vec![],
                    });
                }
                out.push(Stmt::For {
                    var,
                    kind: LoopKind::Serial,
                    lo,
                    hi,
                    step,
                    body: turn_body,
                });
            }
            stmt => out.push(stmt.map_blocks(|body| block(proc, body, (far, tiles)))),
        }
    }
    out
}

/// The statements that bring near what a later turn loads.
fn near(proc: &Proc, body: &[Stmt], var: Var, later: &Ix, out: &mut Vec<Stmt>) {
    let loads = Loads::new(body, var);
    for (_, buf, ix) in body.iter().filter_map(|stmt| loads.of(proc, stmt)) {
        out.push(Stmt::Prefetch(buf, ix.substitute(var, later)));
    }
}

/// The loads of a loop's body that its next turn can be asked for before.
struct Loads {
    var: Var,
    /// Index variables of the body: not there before the loop.
    own: Vec<Var>,
}

impl Loads {
    fn new(body: &[Stmt], var: Var) -> Loads {
        let of = |s: &Stmt| match s {
            Stmt::Let(v, _) => Some(*v),
            _ => None,
        };
        let own = body.iter().filter_map(of).collect();
        Loads { var, own }
    }

    /// The registers, buffer and index of a load of an input that is elsewhere in the next turn, if the statement is one.
    fn of(&self, proc: &Proc, stmt: &Stmt) -> Option<(Vec<Reg>, Buf, Ix)> {
        let (regs, buf, ix) = match stmt {
            Stmt::LoadRow(regs, buf, ix) => (regs.clone(), *buf, ix),
            Stmt::Set(reg, Rhs::Load(buf, ix)) => (vec![*reg], *buf, ix),
            _ => return None,
        };
        let moves = ix.mentions(self.var) && !self.own.iter().any(|v| ix.mentions(*v));
        let input = matches!(proc.buffer(buf).role, Role::Input(_));
        (moves && input).then(|| (regs, buf, ix.clone()))
    }
}

fn new_row(proc: &mut Proc, buf: Buf, count: usize) -> Row {
    let row = Row(proc.rows.len() as u32);
    proc.rows.push((proc.buffer(buf).dtype, count as u32));
    row
}

fn has_loop(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::For { .. } => true,
        Stmt::If { then, els, .. } => then.iter().chain(els).any(has_loop),
        _ => false,
    }
}

/// The body of a loop over `var`, its loads taken from rows that were fetched a turn before.
fn turn(
    proc: &mut Proc,
    body: Vec<Stmt>,
    var: Var,
    next: &Ix,
    fetched: &mut Vec<(Row, Buf, Ix)>,
) -> Vec<Stmt> {
    let loads = Loads::new(&body, var);
    let mut out = Vec::with_capacity(body.len() + 8);
    // Where the first loop in it begins.
    let mut inner = None;
    for stmt in body {
        match loads.of(proc, &stmt) {
            Some((regs, buf, ix)) => {
                let row = new_row(proc, buf, regs.len());
                let at = inner.unwrap_or(out.len());
                let next = Stmt::Fetch(row, buf, ix.substitute(var, next));
                out.splice(at..at, [Stmt::Take(regs, row), next]);
                inner = inner.map(|at| at + 2);
                fetched.push((row, buf, ix));
            }
            _ => {
                if has_loop(&stmt) {
                    inner.get_or_insert(out.len());
                }
                out.push(stmt);
            }
        }
    }
    out
}

/// The same where the next turn's elements are fetched after the steps of a tile, at whose end lanes meet last.
fn turn_after(
    proc: &mut Proc,
    body: Vec<Stmt>,
    var: Var,
    next: &Ix,
    fetched: &mut Vec<(Row, Buf, Ix)>,
) -> Vec<Stmt> {
    let loads = Loads::new(&body, var);
    let Some(meeting) = body.iter().rposition(|s| *s == Stmt::Meet) else {
        return body;
    };
    let mut out = Vec::with_capacity(body.len() + 8);
    let mut after = Vec::new();
    let mut rows: Vec<(Row, usize, Buf, Ix)> = Vec::new();
    for (at, stmt) in body.into_iter().enumerate() {
        match loads.of(proc, &stmt) {
            Some((regs, buf, ix)) => {
                let same = |(_, count, b, i): &&(Row, usize, Buf, Ix)| {
                    (*count, *b, i) == (regs.len(), buf, &ix)
                };
                let row = rows.iter().find(same).map(|(row, ..)| *row);
                let row = row.unwrap_or_else(|| {
                    let row = new_row(proc, buf, regs.len());
                    rows.push((row, regs.len(), buf, ix.clone()));
                    row
                });
                let to = if at < meeting { &mut out } else { &mut after };
                to.push(Stmt::Take(regs, row));
            }
            _ => out.push(stmt),
        }
    }
    let fetch = |(row, _, buf, ix): &(Row, usize, Buf, Ix)| {
        Stmt::Fetch(*row, *buf, ix.substitute(var, next))
    };
    after.extend(rows.iter().map(fetch));
    let meeting = out.iter().rposition(|s| *s == Stmt::Meet).unwrap_or(0);
    out.splice(meeting..meeting, after);
    fetched.extend(rows.into_iter().map(|(row, _, buf, ix)| (row, buf, ix)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{Dtype, Ty};
    use crate::sample::{empty, extent, for_, input, output};

    #[test]
    fn loads_of_inputs_are_fetched_one_turn_before_and_what_is_written_is_not() {
        let mut p = empty(extent(0));
        p.buffers = vec![
            input(0, "x", Dtype::F32, extent(1)),
            output(0, "y", Dtype::F32, extent(1)),
        ];
        p.regs = vec![Ty::F32; 2];
        let (item, t) = (p.var("item"), p.var("t"));
        let body = vec![
            Stmt::Set(Reg(0), Rhs::Load(Buf(0), Ix::Var(t))),
            Stmt::Set(Reg(1), Rhs::Load(Buf(0), Ix::Var(item))),
            Stmt::Store(Buf(1), Ix::Var(t), Reg(0)),
        ];
        let time = for_(t, LoopKind::Serial, 0, extent(1), body);
        p.body = vec![for_(item, LoopKind::Core, 0, extent(0), vec![time])];
        let text = ahead(p, 3, Tiles::Never).to_string();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let at = |line: &str| lines.iter().position(|l| *l == line);
        // Nothing is read before a loop that may have no turn.
        let guard = at("if 0 < D {");
        let first = at("fetch w0 = x[0..]");
        let taken = at("[r0] = w0");
        let next = at("fetch w0 = x[min(t + 1, D + -1)..]");
        assert!(guard.is_some() && guard < first && first < taken, "{text}");
        assert_eq!(taken.map(|k| k + 1), next, "{text}");
        assert!(at("prefetch x[min(t + 3, D + -1)]").is_some(), "{text}");
        assert!(at("r1: f32 = x[item]").is_some(), "{text}");
    }
}
