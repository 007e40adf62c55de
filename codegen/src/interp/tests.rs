//! The interpreter on procs written by hand: each operation, each error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use selscan_dsl::{InputId, Op};

use super::*;
use crate::dtype::{Dtype, Ty};
use crate::loop_ir::{Buf, BufferDecl, Ix, LoopKind, LoopOp, Reg, Rhs, Var};
use crate::sample;

fn program(proc: Proc) -> Program {
    Program {
        procs: vec![proc],
        workspaces: Vec::new(),
    }
}

const X: Role = Role::Input(InputId(0));
const Y: Role = Role::Output(0);

#[test]
fn maps_with_and_without_lanes() {
    for lanes in [None, Some(4)] {
        for (ty, dtype) in [
            (Ty::F32, Dtype::F32),
            (Ty::F64, Dtype::F32),
            (Ty::F32, Dtype::Bf16),
        ] {
            let p = sample::map(LoopOp::Math(Op::Exp), 1, ty, dtype, lanes);
            let mut memory = Memory::new();
            let x = [0.0, 1.0, -2.0, 0.5];
            memory.set(X, dtype, &x);
            interp(&program(p), &mut memory, &[4, 1, 1]).unwrap();
            for (y, x) in memory.get(Y, dtype).unwrap().iter().zip(x) {
                assert!((y - x.exp()).abs() <= x.exp() * dtype.epsilon(), "{y} {x}");
            }
        }
    }
}

/// h = 2^(Δa)·h + Δ·u·b, y = Σ c·h, written out here.
#[test]
fn the_hand_written_scan() {
    let (l, d, n) = (128usize, 8usize, 3usize);
    let series = |len: usize, k: f64| -> Vec<f64> {
        (0..len)
            .map(|i| f64::from(((i as f64 * k).sin() * 0.5) as f32))
            .collect()
    };
    let (a, b, c) = (series(d * n, 0.7), series(l * n, 1.3), series(l * n, 0.31));
    let (delta, u) = (series(l * d, 0.11), series(l * d, 0.77));
    let mut memory = Memory::new();
    for (i, data) in [&a, &b, &c, &delta, &u].into_iter().enumerate() {
        memory.set(Role::Input(InputId(i as u32)), Dtype::F32, data);
    }
    interp(
        &program(sample::selective_scan()),
        &mut memory,
        &[l as i64, d as i64, n as i64],
    )
    .unwrap();
    let y = memory.get(Y, Dtype::F32).unwrap();
    let mut h = vec![0.0; d * n];
    for t in 0..l {
        for i in 0..d {
            let mut sum = 0.0;
            for k in 0..n {
                let (dt, h) = (delta[t * d + i], &mut h[i * n + k]);
                *h = (dt * a[i * n + k]).exp2() * *h + dt * u[t * d + i] * b[t * n + k];
                sum += c[t * n + k] * *h;
            }
            assert!((sum - y[t * d + i]).abs() < 2e-6, "{t} {i}");
        }
    }
}

#[test]
fn an_access_outside_of_its_buffer_is_an_error() {
    let p = sample::map(LoopOp::Math(Op::Neg), 1, Ty::F32, Dtype::F32, Some(4));
    let mut memory = Memory::new();
    memory.set(X, Dtype::F32, &[0.0; 4]);
    let mut reads_on = p.clone();
    reads_on.items = Ix::Const(2);
    if let Stmt::For { hi, .. } = &mut reads_on.body[0] {
        *hi = Ix::Const(2);
    }
    let error = interp(&program(reads_on), &mut memory, &[4, 1, 1]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "proc sample: x0[4] is outside of its 4 elements"
    );
    let error = interp(&program(p.clone()), &mut memory, &[8, 1, 1]).unwrap_err();
    assert!(
        matches!(
            error,
            InterpError::Size {
                wanted: 32,
                found: 16,
                ..
            }
        ),
        "{error}"
    );
    let error = interp(&program(p.clone()), &mut Memory::new(), &[8, 1, 1]).unwrap_err();
    assert!(matches!(error, InterpError::Missing { .. }), "{error}");
    let error = interp(&program(p), &mut Memory::new(), &[]).unwrap_err();
    assert!(
        matches!(error, InterpError::Extent { axis: 0, .. }),
        "{error}"
    );
}

#[test]
fn sizes_that_overflow_are_an_error() {
    let mut p = sample::map(LoopOp::Math(Op::Neg), 1, Ty::F32, Dtype::F32, None);
    p.buffers[0].len = sample::extent(0) * sample::extent(1);
    let error = interp(&program(p), &mut Memory::new(), &[i64::MAX, 2, 1]).unwrap_err();
    assert!(matches!(error, InterpError::Overflow { .. }), "{error}");
}

/// Every lane starts from the register before the loop, and none is left behind.
#[test]
fn lanes_have_their_own_registers() {
    let mut p = sample::empty(Ix::Const(1));
    p.buffers = vec![sample::output(0, "y", Dtype::F32, Ix::Const(4))];
    let (item, lane) = (p.var("item"), p.var("lane"));
    let (sum, one) = (p.reg(Ty::F32), p.reg(Ty::F32));
    let add = Rhs::Op(LoopOp::Math(Op::Add), vec![sum, one]);
    let body = vec![
        Stmt::Set(sum, Rhs::Const(1.0)),
        sample::for_(
            lane,
            LoopKind::Lane(4),
            0,
            4,
            vec![
                Stmt::Set(one, Rhs::Index(lane.into())),
                Stmt::Set(sum, add),
                Stmt::Store(Buf(0), lane.into(), sum),
            ],
        ),
    ];
    p.body = vec![sample::for_(item, LoopKind::Core, 0, 1, body)];
    let mut memory = Memory::new();
    interp(&program(p), &mut memory, &[]).unwrap();
    assert_eq!(memory.get(Y, Dtype::F32).unwrap(), [1.0, 2.0, 3.0, 4.0]);
}

/// From f64 to 16 bits a number is rounded once: just above a tie goes up, though its f32 is the tie.
#[test]
fn sixteen_bits_are_rounded_once() {
    let mut memory = Memory::new();
    let above = 1.0 + 0.5f64.powi(8) + 0.5f64.powi(40);
    memory.set(X, Dtype::Bf16, &[above, 1.0 + 0.5f64.powi(8)]);
    assert_eq!(
        memory.get(X, Dtype::Bf16).unwrap(),
        [1.0 + 0.5f64.powi(7), 1.0]
    );
    memory.set(X, Dtype::F16, &[f64::NAN, 1e6, 6e-8, -65519.9]);
    let x = memory.get(X, Dtype::F16).unwrap();
    assert!(x[0].is_nan());
    assert_eq!(x[1..], [f64::INFINITY, 0.5f64.powi(24), -65504.0]);
}

#[test]
fn scratch_is_lost_between_items() {
    let mut p = sample::map(LoopOp::Copy, 1, Ty::F32, Dtype::F32, None);
    p.buffers[0].role = Role::Scratch;
    let mut memory = Memory::new();
    interp(&program(p), &mut memory, &[3, 1, 1]).unwrap();
    assert!(
        memory
            .get(Y, Dtype::F32)
            .unwrap()
            .iter()
            .all(|y| y.is_nan())
    );
}

/// What a lane writes another may read, and what it read another may write, only after they met.
#[test]
fn lanes_that_do_not_meet_are_found() {
    let (own, other) = (Ix::Var(Var(1)), Ix::Const(3) - Ix::Var(Var(1)));
    let (r, s) = (Reg(0), Reg(1));
    let run = |body: Vec<Stmt>| {
        let mut p = sample::empty(Ix::Const(2));
        p.buffers = vec![BufferDecl {
            name: "ours".into(),
            role: Role::Exchange,
            dtype: Dtype::F32,
            len: Ix::Const(4),
        }];
        p.regs = vec![Ty::F32; 2];
        let (item, lane) = (p.var("item"), p.var("lane"));
        let mut all = vec![Stmt::Set(r, Rhs::Const(1.0)), Stmt::Meet];
        all.extend(body);
        let lanes = sample::for_(lane, LoopKind::Lane(4), 0, 4, all);
        p.body = vec![sample::for_(item, LoopKind::Core, 0, 2, vec![lanes])];
        let mut memory = Memory::new();
        interp(&program(p), &mut memory, &[1, 1, 1])
    };
    let store = Stmt::Store(Buf(0), own, r);
    let read_other = Stmt::Set(s, Rhs::Load(Buf(0), other.clone()));
    let write_other = Stmt::Store(Buf(0), other, r);
    let write_one = Stmt::Store(Buf(0), Ix::Const(0), r);
    let race = |index| {
        Err(InterpError::Race {
            proc: "sample".into(),
            buffer: "ours".into(),
            index,
        })
    };
    let met = |a: &Stmt, b: &Stmt| vec![a.clone(), Stmt::Meet, b.clone()];
    assert_eq!(run(met(&store, &read_other)), Ok(()));
    // Read by one lane, then written by another; written by all.
    let after = |b: &Stmt| [met(&store, &read_other), vec![b.clone()]].concat();
    assert_eq!(run(after(&store)), race(0));
    assert_eq!(run(after(&write_other)), Ok(()));
    assert_eq!(run(vec![write_one]), race(0));
}
