//! Tensors with more elements than 32 bits count: code for GPUs then has 64-bit indices, and 32-bit ones only where nothing
//! can overflow.
//!
//! Programs are walked, not run: an item, then a turn of each loop, at random or at either end, and every index expression on
//! the way is evaluated with all of its parts in exact integers. So it takes no memory, whatever the extents.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use selscan_codegen::backend::cuda::emit;
use selscan_codegen::loop_ir::{Buf, Ix, Proc, Rhs, Stmt};
use selscan_codegen::{Dtype, Plan, Target, candidates, lower};
use selscan_dsl::Extents;
use selscan_dsl::scan::prepare;
use selscan_models::{CATALOGUE, Model};
use selscan_runtime::Spec;

/// Random walks through each proc.
const WALKS: u64 = 12;

/// One path through a proc.
struct Walk<'a> {
    proc: &'a Proc,
    extents: &'a Extents,
    vars: Vec<i128>,
    random: u64,
    /// The least and the greatest number that any part of an index had.
    least: i128,
    greatest: i128,
}

impl Walk<'_> {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn ix(&mut self, ix: &Ix) -> i128 {
        let value = match ix {
            Ix::Const(k) => i128::from(*k),
            Ix::Var(v) => self.vars[v.0 as usize],
            Ix::Extent(axis) => self.extents.get(*axis) as i128,
            Ix::Add(a, b) => self.ix(a) + self.ix(b),
            Ix::Sub(a, b) => self.ix(a) - self.ix(b),
            Ix::Mul(a, b) => self.ix(a) * self.ix(b),
            Ix::Div(a, b) => {
                let (a, b) = (self.ix(a), self.ix(b));
                assert!(a >= 0 && b > 0, "{a} / {b} in {}", self.proc.show(ix));
                a / b
            }
            Ix::Min(a, b) => self.ix(a).min(self.ix(b)),
        };
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
        value
    }

    /// An access to that many elements from an index on lies within the buffer.
    fn access(&mut self, buf: Buf, ix: &Ix, count: usize) {
        let at = self.ix(ix);
        let decl = self.proc.buffer(buf);
        let extent = |a| self.extents.get(a) as i64;
        let len = i128::from(decl.len.eval(&|_| 0, &extent).unwrap());
        assert!(
            0 <= at && at + count as i128 <= len,
            "{}[{}] is {at}, of {len} elements",
            decl.name,
            self.proc.show(ix)
        );
    }

    fn block(&mut self, body: &[Stmt]) {
        body.iter().for_each(|stmt| self.stmt(stmt));
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::For {
                var,
                lo,
                hi,
                step,
                body,
                ..
            } => {
                let (lo, hi, step) = (self.ix(lo), self.ix(hi), i128::from(*step));
                if lo >= hi {
                    return;
                }
                let last = (hi - lo - 1) / step;
                let turn = match self.random() % 4 {
                    0 => 0,
                    1 => i128::from(self.random()) % (last + 1),
                    _ => last,
                };
                self.vars[var.0 as usize] = lo + turn * step;
                // What the variable holds when the loop ends.
                self.greatest = self.greatest.max(lo + (last + 1) * step);
                self.block(body);
            }
            Stmt::If {
                lhs,
                rhs,
                then,
                els,
            } => {
                let then = if self.ix(lhs) < self.ix(rhs) {
                    then
                } else {
                    els
                };
                self.block(then);
            }
            Stmt::Let(var, ix) => self.vars[var.0 as usize] = self.ix(ix),
            Stmt::Set(_, Rhs::Load(buf, ix) | Rhs::LoadBits(buf, ix))
            | Stmt::Store(buf, ix, _)
            | Stmt::StoreBits(buf, ix, _)
            | Stmt::Prefetch(buf, ix) => self.access(*buf, ix, 1),
            Stmt::LoadRow(regs, buf, ix) | Stmt::StoreRow(buf, ix, regs) => {
                self.access(*buf, ix, regs.len());
            }
            Stmt::Fetch(row, buf, ix) => {
                self.access(*buf, ix, self.proc.rows[row.0 as usize].1 as usize);
            }
            Stmt::Copy(to, at, from, ix, count) => {
                self.access(*to, at, *count as usize);
                self.access(*from, ix, *count as usize);
            }
            Stmt::Set(_, Rhs::Index(ix)) => {
                self.ix(ix);
            }
            Stmt::Set(_, Rhs::Const(_) | Rhs::Bits(_) | Rhs::Op(..))
            | Stmt::Take(..)
            | Stmt::Sync
            | Stmt::Arrive
            | Stmt::Wait
            | Stmt::Meet => {}
        }
    }
}

/// Walks through a proc; the least and the greatest number of its indices.
fn walked(proc: &Proc, extents: &Extents) -> (i128, i128) {
    let mut walk = Walk {
        proc,
        extents,
        vars: vec![0; proc.vars.len()],
        random: 0x9e37_79b9_7f4a_7c15,
        least: 0,
        greatest: 0,
    };
    for _ in 0..WALKS {
        walk.block(&proc.body);
    }
    (walk.least, walk.greatest)
}

/// The elements of a model's largest tensor that has time.
fn largest(r: &selscan_dsl::Recurrence, extents: &Extents) -> u128 {
    let inputs = r.inputs.iter().map(|i| &i.axes);
    let outputs = r.outputs.iter().map(|o| &o.axes);
    let timed = inputs.chain(outputs).filter(|a| a.contains(&r.time));
    let count = |axes: &Vec<_>| extents.shape(axes).iter().map(|&n| n as u128).product();
    timed.map(count).max().unwrap()
}

/// The typical extents with one axis made so long that the largest tensor has `wanted` elements or a few more; `None` where
/// that tensor lacks the axis.
fn stretched(model: &Model, axis: &str, wanted: u128) -> Option<Extents> {
    let r = model.recurrence().unwrap();
    let with = |n: usize| {
        let mut all = model.typical.to_vec();
        let own = all.iter_mut().find(|(name, _)| *name == axis)?;
        own.1 = n;
        Some(Model::extents(&r, &all))
    };
    let unit = largest(&r, &with(1)?);
    let n = wanted.div_ceil(unit) as usize;
    let extents = with(n)?;
    (largest(&r, &extents) >= wanted).then_some(extents)
}

/// Plans of a model for a GPU at some extents, the default first.
fn plans(model: &Model, extents: &Extents, most: usize) -> Vec<Plan> {
    let r = model.recurrence().unwrap();
    let mut spec = Spec::new(&r, Dtype::Bf16);
    for input in &r.inputs {
        spec = spec.with_input(&r, &input.name, Dtype::Bf16).unwrap();
    }
    for state in &r.states {
        let name = &state.name;
        spec = spec.with_state(&r, name, Dtype::F32, true, true).unwrap();
    }
    let (options, target) = (spec.options(&r), Target::h200());
    let scans = prepare(&r, &|_| true, false);
    let of = |scan| {
        let mut all = candidates(scan, extents, &options, &target);
        // The default, and the least like it: the last resort is stepped.
        let rest = all.split_off(1.min(all.len()));
        all.extend(rest.into_iter().rev().step_by(7).take(most));
        let plan = |s| Plan::new(scan, extents, &options, &target, s).unwrap();
        all.iter().map(plan).collect::<Vec<_>>()
    };
    scans.iter().flat_map(of).collect()
}

#[test]
fn indices_are_as_wide_as_they_must_be() {
    let bits = 1_u128 << 31;
    let (mut narrow, mut wide) = (0, 0);
    for model in CATALOGUE {
        let r = model.recurrence().unwrap();
        let mut shapes = vec![Model::extents(&r, model.typical)];
        for axis in [&r.axes[0].name, r.axis_name(r.time)] {
            shapes.extend(stretched(model, axis, bits + 1));
            shapes.extend(stretched(model, axis, bits / 3));
        }
        for extents in shapes {
            let most = if extents == Model::extents(&r, model.typical) {
                3
            } else {
                2
            };
            for plan in plans(model, &extents, most) {
                let program = lower(&plan);
                let mut greatest = 0;
                for proc in &program.procs {
                    let (least, most) = walked(proc, &extents);
                    greatest = greatest.max(most);
                    let fits = least >= i32::MIN.into() && most <= i32::MAX.into();
                    assert!(
                        fits || !proc.narrow,
                        "{} at {:?} under '{}': indices from {least} to {most} in 32 bits",
                        proc.name,
                        extents.0,
                        plan.schedule
                    );
                    narrow += usize::from(proc.narrow);
                    wide += usize::from(!proc.narrow);
                }
                // What is tested was there: some walk came to the end of the largest tensor.
                if largest(&r, &extents) > bits {
                    assert!(
                        greatest > i32::MAX.into(),
                        "{} at {:?} under '{}': no index above {greatest}",
                        model.name,
                        extents.0,
                        plan.schedule
                    );
                }
            }
        }
    }
    assert!(narrow > 200 && wide > 100, "{narrow} narrow, {wide} wide");
}

/// The flag is what the text does: declarations of indices and casts to their type.
#[test]
fn the_text_has_indices_of_that_width() {
    let model = selscan_models::model("selective_scan").unwrap();
    for (elements, index, other) in [(1 << 20, "int", "long long"), (1 << 31, "long long", "int")] {
        let extents = stretched(model, "B", elements + 1).unwrap();
        for plan in plans(model, &extents, 3) {
            let program = lower(&plan);
            // The carry over chunks has indices of its own width.
            if program.procs.len() > 1 {
                continue;
            }
            let text = emit(&program).unwrap().text;
            let kernel = &text[text.find("__global__").unwrap()..];
            assert_eq!(program.procs[0].narrow, index == "int");
            assert!(
                kernel.contains(&format!("const {index} v0 = ({index})item;")),
                "{kernel}"
            );
            assert!(!kernel.contains(&format!("const {other} v")), "{kernel}");
        }
    }
}
