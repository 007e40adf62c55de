//! Neighbouring elements accessed as one.
//!
//! In: a proc. Out: the proc with loads of neighbours in one run of statements as [`Stmt::LoadRow`], where the first of
//! them is loaded, and stores of neighbours as [`Stmt::StoreRow`], where the last of them is stored: 16, 8 or 4 bytes,
//! where the index of the first is a multiple of their number whatever the loops' variables and extents are.

use rustc_hash::FxHashMap;

use crate::dtype::Ty;
use crate::ix::gcd;
use crate::loop_ir::{Buf, Ix, LoopKind, Proc, Reg, Rhs, Role, Stmt, Var};
use crate::regs::each;

/// The proc with wide accesses.
#[must_use]
pub fn wide(mut proc: Proc) -> Proc {
    let body = std::mem::take(&mut proc.body);
    let mut assigned = vec![0; proc.regs.len()];
    each(&body, &mut |stmt| {
        stmt.writes()
            .iter()
            .for_each(|r| assigned[r.0 as usize] += 1)
    });
    let mut widening = Widening {
        proc: &proc,
        assigned,
        divisors: vec![1; proc.vars.len()],
    };
    let body = widening.block(body);
    Proc { body, ..proc }
}

struct Widening<'a> {
    proc: &'a Proc,
    assigned: Vec<u32>,
    /// A number that divides each variable.
    divisors: Vec<i64>,
}

/// An access: where it stands in the run of statements, and its offset from the common base.
type Access = (usize, i64);

/// Whether an access reads or writes, its buffer, and its index without the constant.
type Base<'s> = (bool, Buf, &'s Ix);

impl Widening<'_> {
    fn divisor(&self, ix: &Ix) -> i64 {
        let extents = |a: selscan_dsl::AxisId| {
            let multiple = self.proc.multiples.get(a.0 as usize);
            multiple.copied().unwrap_or(1)
        };
        ix.divisor(&|v| self.divisors[v.0 as usize], &extents)
    }

    fn define(&mut self, var: Var, divisor: i64) {
        // 0 is a multiple of everything.
        self.divisors[var.0 as usize] = if divisor == 0 { 1 << 40 } else { divisor };
    }

    fn block(&mut self, body: Vec<Stmt>) -> Vec<Stmt> {
        let mut out = Vec::with_capacity(body.len());
        let mut run = Vec::new();
        for stmt in body {
            match &stmt {
                Stmt::For {
                    var,
                    kind,
                    lo,
                    step,
                    ..
                } => {
                    let divides = match kind {
                        LoopKind::Core | LoopKind::Lane(_) => 1,
                        LoopKind::Team => 1,
                        LoopKind::Serial => gcd(self.divisor(lo), *step),
                    };
                    self.define(*var, divides);
                    self.merge(&mut run, &mut out);
                    out.push(stmt.map_blocks(|body| self.block(body)));
                }
                Stmt::If { then, els, .. } if !is_plain(then) || !is_plain(els) => {
                    self.merge(&mut run, &mut out);
                    out.push(stmt.map_blocks(|body| self.block(body)));
                }
                Stmt::Sync | Stmt::Arrive | Stmt::Wait | Stmt::Meet => {
                    run.push(stmt);
                    self.merge(&mut run, &mut out);
                }
                Stmt::Let(var, ix) => {
                    self.define(*var, self.divisor(ix));
                    run.push(stmt);
                }
                _ => run.push(stmt),
            }
        }
        self.merge(&mut run, &mut out);
        out
    }

    /// Moves a run of statements to `out`, its neighbours merged.
    fn merge(&self, run: &mut Vec<Stmt>, out: &mut Vec<Stmt>) {
        let mut groups: FxHashMap<Base<'_>, Vec<Access>> = FxHashMap::default();
        let mut order: Vec<Base<'_>> = Vec::new();
        // Accesses to memory that may be written meanwhile are merged between two writes or reads of it only.
        let mut closed: Vec<(Base<'_>, Vec<Access>)> = Vec::new();
        for (at, stmt) in run.iter().enumerate() {
            let Some((writes, buf, ix)) = access(stmt) else {
                continue;
            };
            if !self.is_constant(buf) {
                order.retain(|base| {
                    let clashes = base.0 != writes && self.may_meet(base.1, buf);
                    if clashes && let Some(accesses) = groups.remove(base) {
                        closed.push((*base, accesses));
                    }
                    !clashes
                });
            }
            let usable = match stmt {
                Stmt::Set(reg, _) => {
                    self.assigned[reg.0 as usize] == 1 && self.proc.ty(*reg) != Ty::Bool
                }
                _ => true,
            };
            if usable && self.proc.buffer(buf).role != Role::Scratch {
                let (base, offset) = split(ix);
                let base = (writes, buf, base);
                let accesses = groups.entry(base).or_insert_with(|| {
                    order.push(base);
                    Vec::new()
                });
                // An element that is accessed once more begins another row, beside what is accessed with it.
                if accesses.iter().any(|&(_, known)| known == offset) {
                    closed.push((base, std::mem::take(accesses)));
                }
                accesses.push((at, offset));
            }
        }
        for base in order {
            if let Some(accesses) = groups.remove(&base) {
                closed.push((base, accesses));
            }
        }
        let mut placed: FxHashMap<usize, Stmt> = FxHashMap::default();
        let mut gone = vec![false; run.len()];
        for ((writes, buf, base), mut accesses) in closed {
            accesses.sort_by_key(|&(at, offset)| (offset, at));
            let mut rest = &accesses[..];
            while !rest.is_empty() {
                let n = self.row(buf, base, rest);
                let (row, after) = rest.split_at(n.max(1));
                rest = after;
                if n < 2 {
                    continue;
                }
                let regs: Vec<Reg> = row.iter().map(|&(at, _)| register(&run[at])).collect();
                let ix = base.clone() + Ix::Const(row[0].1);
                let places = row.iter().map(|&(at, _)| at);
                let (at, stmt) = if writes {
                    (places.max(), Stmt::StoreRow(buf, ix, regs))
                } else {
                    (places.min(), Stmt::LoadRow(regs, buf, ix))
                };
                row.iter().for_each(|&(at, _)| gone[at] = true);
                if let Some(at) = at {
                    placed.insert(at, stmt);
                }
            }
        }
        for (at, stmt) in run.drain(..).enumerate() {
            if let Some(row) = placed.remove(&at) {
                out.push(row);
            } else if !gone[at] {
                out.push(stmt);
            }
        }
    }

    /// How many of the first accesses (by offset) make one row.
    fn row(&self, buf: Buf, base: &Ix, accesses: &[Access]) -> usize {
        let decl = self.proc.buffer(buf);
        let most = 16 / decl.dtype.bytes();
        let (_, first) = accesses[0];
        let mut divisor = self.divisor(&(base.clone() + Ix::Const(first)));
        if decl.role == Role::Exchange {
            // An item's begins where that of the item before it ends.
            divisor = gcd(divisor, self.divisor(&decl.len));
        }
        for n in [8, 4, 2] {
            let fits = n <= most
                && accesses.len() >= n
                && divisor % n as i64 == 0
                && (0..n).all(|k| accesses[k].1 == first + k as i64);
            if fits {
                return n;
            }
        }
        1
    }

    /// Whether nothing writes a buffer while the proc runs.
    fn is_constant(&self, buf: Buf) -> bool {
        // What a block shares is written by loops, which end the run.
        matches!(self.proc.buffer(buf).role, Role::Input(_) | Role::Shared)
    }

    /// Whether two buffers may be the same memory.
    fn may_meet(&self, a: Buf, b: Buf) -> bool {
        let state = |role: Role| match role {
            Role::Initial(s) | Role::Last(s) => Some(s),
            _ => None,
        };
        let (x, y) = (self.proc.buffer(a).role, self.proc.buffer(b).role);
        a == b || (state(x).is_some() && state(x) == state(y))
    }
}

/// Whether an If is a part of the run that it stands in: assignments of registers alone.
fn is_plain(body: &[Stmt]) -> bool {
    body.iter()
        .all(|s| matches!(s, Stmt::Set(_, Rhs::Op(..) | Rhs::Const(_))))
}

/// Whether an access writes, where it goes.
fn access(stmt: &Stmt) -> Option<(bool, Buf, &Ix)> {
    match stmt {
        Stmt::Set(_, Rhs::Load(buf, ix)) => Some((false, *buf, ix)),
        Stmt::Store(buf, ix, _) => Some((true, *buf, ix)),
        _ => None,
    }
}

fn register(stmt: &Stmt) -> Reg {
    match stmt {
        Stmt::Set(reg, _) | Stmt::Store(_, _, reg) => *reg,
        _ => Reg(0),
    }
}

/// An index as base + constant.
fn split(ix: &Ix) -> (&Ix, i64) {
    match ix {
        Ix::Const(k) => (&Ix::Const(0), *k),
        Ix::Add(base, k) => match **k {
            Ix::Const(k) => (base, k),
            _ => (ix, 0),
        },
        _ => (ix, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::loop_ir::BufferDecl;
    use crate::sample::{empty, extent, for_, input, output};

    /// y[i·n + k] = x[i·n + k] for k of `offsets`, with the extent n a multiple of `multiple`.
    fn copied(offsets: &[i64], multiple: i64, dtype: Dtype) -> String {
        let mut p = empty(extent(0));
        let len = extent(0) * extent(1);
        p.buffers = vec![
            input(0, "x", dtype, len.clone()),
            output(0, "y", dtype, len),
        ];
        p.multiples = vec![1, multiple, 1];
        let item = p.var("item");
        let at = |k: i64| Ix::Var(item) * extent(1) + Ix::Const(k);
        let mut body = Vec::new();
        for &k in offsets {
            let reg = p.reg(Ty::F32);
            body.push(Stmt::Set(reg, Rhs::Load(Buf(0), at(k))));
            body.push(Stmt::Store(Buf(1), at(k), reg));
        }
        p.body = vec![for_(item, LoopKind::Core, 0, extent(0), body)];
        let text = wide(p).to_string();
        let lines = text.lines().filter(|l| l.contains(" = "));
        lines.map(|l| l.trim().to_owned() + "\n").collect()
    }

    #[test]
    fn neighbours_are_one_access_where_the_index_is_a_multiple() {
        let all: Vec<i64> = (0..8).collect();
        assert_eq!(
            copied(&all, 8, Dtype::Bf16),
            "[r0, r1, r2, r3, r4, r5, r6, r7] = x[item*D..]\n\
             y[item*D..] = [r0, r1, r2, r3, r4, r5, r6, r7]\n"
        );
        // 16 bytes at most, and no more than divides the index.
        let f32s = copied(&all, 8, Dtype::F32);
        assert!(
            f32s.starts_with("[r0, r1, r2, r3] = x[item*D..]\n"),
            "{f32s}"
        );
        assert!(
            f32s.contains("y[item*D + 4..] = [r4, r5, r6, r7]\n"),
            "{f32s}"
        );
        let pairs = copied(&all, 2, Dtype::Bf16);
        assert_eq!(pairs.matches("..] = [").count(), 4, "{pairs}");
        let none = copied(&all, 1, Dtype::Bf16);
        assert!(!none.contains(".."), "{none}");
    }

    #[test]
    fn what_lanes_have_in_common_begins_at_a_multiple_of_its_length() {
        let loaded = |len: i64| {
            let mut p = empty(extent(0));
            p.buffers = vec![BufferDecl {
                name: "ours".into(),
                role: Role::Exchange,
                dtype: Dtype::F32,
                len: Ix::Const(len),
            }];
            let item = p.var("item");
            let loads = (0..4).map(|k| Stmt::Set(p.reg(Ty::F32), Rhs::Load(Buf(0), Ix::Const(k))));
            let body = loads.collect();
            p.body = vec![for_(item, LoopKind::Core, 0, extent(0), body)];
            wide(p).to_string().matches("..]").count()
        };
        assert_eq!([15, 16, 18].map(loaded), [0, 1, 2]);
    }

    #[test]
    fn what_is_not_whole_stays_apart() {
        // 1 to 4: only 2, 3 begin at a multiple of 2.
        let some = copied(&[1, 2, 3, 4], 16, Dtype::Bf16);
        assert_eq!(some.matches("= x[item*D + 2..]").count(), 1, "{some}");
        assert_eq!(some.matches("..]").count(), 2, "{some}");
    }
}
