//! Each rule of the grammar, broken once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::loop_ir::BufferDecl;
use crate::loop_ir::LoopOp;
use crate::sample::{self, extent, for_, input, output};
use selscan_dsl::Op;

/// A proc over L items with an f32 input and output, a bf16 output, and f32, f64, i32 and bool registers.
struct Parts {
    proc: Proc,
    item: Var,
    lane: Var,
}

const X: Buf = Buf(0);
const Y: Buf = Buf(1);
const HALF: Buf = Buf(2);
const F32: Reg = Reg(0);
const F64: Reg = Reg(1);
const I32: Reg = Reg(2);
const BOOL: Reg = Reg(3);
const OTHER: Reg = Reg(4);

fn parts() -> Parts {
    let mut proc = sample::empty(extent(0));
    proc.buffers = vec![
        input(0, "x", Dtype::F32, extent(0)),
        output(0, "y", Dtype::F32, extent(0)),
        output(1, "half", Dtype::Bf16, extent(0)),
    ];
    proc.regs = vec![Ty::F32, Ty::F64, Ty::I32, Ty::Bool, Ty::F32];
    let (item, lane) = (proc.var("item"), proc.var("lane"));
    Parts { proc, item, lane }
}

/// The fault of a proc whose items are this body.
fn fault(body: impl FnOnce(&mut Parts) -> Vec<Stmt>) -> Option<Fault> {
    let mut parts = parts();
    let body = body(&mut parts);
    parts.proc.body = vec![for_(parts.item, LoopKind::Core, 0, extent(0), body)];
    verify(&parts.proc).err().map(|e| e.fault)
}

fn set(reg: Reg, rhs: Rhs) -> Stmt {
    Stmt::Set(reg, rhs)
}
fn one(reg: Reg) -> Stmt {
    set(reg, Rhs::Const(1.0))
}
fn op(reg: Reg, op: LoopOp, args: &[Reg]) -> Stmt {
    set(reg, Rhs::Op(op, args.to_vec()))
}
fn serial(var: Var, body: Vec<Stmt>) -> Stmt {
    for_(var, LoopKind::Serial, 0, extent(1), body)
}
fn lanes(var: Var, body: Vec<Stmt>) -> Stmt {
    for_(var, LoopKind::Lane(4), 0, 4, body)
}

/// Asserts that a body's fault matches a pattern.
macro_rules! faulty {
    ($pattern:pat, $body:expr) => {{
        let found = fault($body);
        assert!(matches!(&found, Some($pattern)), "{found:?}");
    }};
}

#[test]
fn samples_are_in_the_grammar() {
    verify(&sample::selective_scan()).unwrap();
    assert_eq!(fault(|_| vec![one(F32)]), None);
}

#[test]
fn the_core_loop_is_outermost_and_alone() {
    let mut p = parts();
    assert_eq!(verify(&p.proc).unwrap_err().fault, Fault::NotOneCore);
    let core = |hi: Ix| for_(p.item, LoopKind::Core, 0, hi, vec![]);
    p.proc.body = vec![core(extent(0)), core(extent(0))];
    assert_eq!(verify(&p.proc).unwrap_err().fault, Fault::NotOneCore);
    p.proc.body = vec![serial(p.item, vec![])];
    assert_eq!(verify(&p.proc).unwrap_err().fault, Fault::NotOneCore);
    p.proc.body = vec![for_(p.item, LoopKind::Core, 0, extent(1), vec![])];
    assert!(matches!(
        verify(&p.proc).unwrap_err().fault,
        Fault::CoreBounds(_)
    ));
    faulty!(Fault::InnerCore(_), |p| vec![for_(
        p.lane,
        LoopKind::Core,
        0,
        4,
        vec![]
    )]);
}

#[test]
fn lane_loops_have_their_width_and_do_not_nest() {
    let wide = |lo: Ix, hi: Ix, step| {
        fault(move |p| {
            let kind = LoopKind::Lane(4);
            vec![Stmt::For {
                var: p.lane,
                kind,
                lo,
                hi,
                step,
                body: vec![],
            }]
        })
    };
    let d = || extent(1) * Ix::Const(4);
    assert_eq!(wide(d(), Ix::Const(2) + d() + Ix::Const(2), 1), None);
    assert!(matches!(
        wide(0.into(), 5.into(), 1),
        Some(Fault::LaneWidth { .. })
    ));
    assert!(matches!(
        wide(0.into(), extent(1), 1),
        Some(Fault::LaneWidth { .. })
    ));
    assert!(matches!(
        wide(0.into(), 4.into(), 2),
        Some(Fault::LaneWidth { .. })
    ));
    faulty!(Fault::NoLanes(_), |p| vec![for_(
        p.lane,
        LoopKind::Lane(0),
        0,
        0,
        vec![]
    )]);
    faulty!(Fault::NestedLane(_), |p| {
        let inner = p.proc.var("inner");
        vec![lanes(p.lane, vec![lanes(inner, vec![])])]
    });
}

#[test]
fn steps_are_above_zero() {
    faulty!(Fault::Step { step: 0, .. }, |p| {
        let (lo, hi) = (Ix::Const(0), Ix::Const(3));
        vec![Stmt::For {
            var: p.lane,
            kind: LoopKind::Serial,
            lo,
            hi,
            step: 0,
            body: vec![],
        }]
    });
}

#[test]
fn what_is_the_same_in_every_lane_does_not_depend_on_it() {
    faulty!(
        Fault::LaneDependent {
            what: "a loop's bounds",
            ..
        },
        |p| {
            let t = p.proc.var("t");
            vec![lanes(
                p.lane,
                vec![for_(t, LoopKind::Serial, 0, p.lane, vec![])],
            )]
        }
    );
    faulty!(
        Fault::LaneDependent {
            what: "a condition over shuffles or loops",
            ..
        },
        |p| {
            let t = p.proc.var("t");
            let (lhs, rhs) = (p.lane.into(), Ix::Const(2));
            vec![lanes(
                p.lane,
                vec![Stmt::If {
                    lhs,
                    rhs,
                    then: vec![for_(t, LoopKind::Serial, 0, 2, vec![])],
                    els: vec![],
                }],
            )]
        }
    );
    faulty!(
        Fault::LaneDependent {
            what: "an index variable",
            ..
        },
        |p| {
            let v = p.proc.var("v");
            vec![lanes(p.lane, vec![Stmt::Let(v, p.lane.into())])]
        }
    );
    faulty!(Fault::LaneDependent { .. }, |p| {
        let x = set(F32, Rhs::Load(X, p.lane.into()));
        vec![lanes(p.lane, vec![x, Stmt::Store(Y, 0.into(), F32)])]
    });
    // The same value from every lane is one store.
    assert_eq!(
        fault(|p| vec![lanes(p.lane, vec![one(F32), Stmt::Store(Y, 0.into(), F32)])]),
        None
    );
}

#[test]
fn variables_are_defined_once_and_used_inside() {
    faulty!(Fault::Scope(_), |p| vec![set(
        F32,
        Rhs::Load(X, p.lane.into())
    )]);
    faulty!(Fault::Scope(_), |p| {
        vec![
            serial(p.lane, vec![]),
            set(F32, Rhs::Load(X, p.lane.into())),
        ]
    });
    faulty!(Fault::Scope(_), |p| {
        let v = p.proc.var("v");
        vec![
            serial(p.lane, vec![Stmt::Let(v, 0.into())]),
            set(F32, Rhs::Index(v.into())),
        ]
    });
    faulty!(Fault::Shadow(_), |p| vec![serial(p.item, vec![])]);
    faulty!(Fault::Shadow(_), |p| vec![Stmt::Let(p.item, 0.into())]);
    faulty!(
        Fault::Undeclared {
            what: "variable",
            ..
        },
        |_| vec![serial(Var(99), vec![])]
    );
}

#[test]
fn index_expressions() {
    faulty!(Fault::Divisor(_), |p| {
        let zero = Ix::Div(Box::new(p.item.into()), Box::new(0.into()));
        vec![set(F32, Rhs::Index(zero))]
    });
    faulty!(Fault::Extent(7), |_| vec![set(F32, Rhs::Index(extent(7)))]);
}

#[test]
fn registers_are_assigned_on_every_path() {
    faulty!(Fault::Undefined(0), |_| vec![Stmt::Store(Y, 0.into(), F32)]);
    faulty!(Fault::Undefined(0), |_| vec![op(
        OTHER,
        LoopOp::Copy,
        &[F32]
    )]);
    // A loop may have no turn, unless its bounds are numbers.
    faulty!(Fault::Undefined(0), |p| {
        vec![
            serial(p.lane, vec![one(F32)]),
            Stmt::Store(Y, 0.into(), F32),
        ]
    });
    let sure = |p: &mut Parts| {
        let turns = for_(p.lane, LoopKind::Serial, 0, 2, vec![one(F32)]);
        vec![turns, Stmt::Store(Y, 0.into(), F32)]
    };
    assert_eq!(fault(sure), None);
    // One branch is not both.
    let choice = |els| {
        move |p: &mut Parts| {
            let branch = Stmt::If {
                lhs: p.item.into(),
                rhs: 2.into(),
                then: vec![one(F32)],
                els,
            };
            vec![branch, Stmt::Store(Y, 0.into(), F32)]
        }
    };
    assert_eq!(fault(choice(vec![])), Some(Fault::Undefined(0)));
    assert_eq!(fault(choice(vec![one(F32)])), None);
    // Lanes leave no register behind, not even for the next turn of a loop around them.
    faulty!(Fault::Undefined(0), |p| {
        vec![
            one(F32),
            lanes(p.lane, vec![one(F32)]),
            Stmt::Store(Y, 0.into(), F32),
        ]
    });
    faulty!(Fault::Undefined(0), |p| {
        let t = p.proc.var("t");
        let turn = vec![Stmt::Store(Y, t.into(), F32), lanes(p.lane, vec![one(F32)])];
        vec![one(F32), serial(t, turn)]
    });
}

#[test]
fn types_fit() {
    let add = LoopOp::Math(Op::Add);
    for (to, operation, args) in [
        (F32, add, [F32, F64]),
        (F64, add, [F32, F32]),
        (F32, add, [I32, I32]),
        (F32, LoopOp::Math(Op::Lt), [F32, F32]),
        (BOOL, LoopOp::Math(Op::Lt), [I32, I32]),
        (I32, LoopOp::IAdd, [F32, F32]),
        (BOOL, LoopOp::ILt, [F32, F32]),
        (F32, LoopOp::And, [I32, I32]),
    ] {
        faulty!(Fault::Type { .. }, |_| {
            vec![one(F32), one(F64), one(I32), op(to, operation, &args)]
        });
    }
    for (to, operation, arg) in [
        (F64, LoopOp::Copy, F32),
        (F32, LoopOp::Convert, F32),
        (F64, LoopOp::Bitcast, F32),
        (F64, LoopOp::FromInt, I32),
        (F32, LoopOp::FromInt, F64),
        (F32, LoopOp::Round, F64),
        (F32, LoopOp::Shl(1), I32),
    ] {
        faulty!(Fault::Type { .. }, |_| {
            vec![one(F32), one(F64), one(I32), op(to, operation, &[arg])]
        });
    }
    let select = LoopOp::Math(Op::Select);
    let lt = || {
        vec![
            one(F32),
            one(F64),
            op(BOOL, LoopOp::Math(Op::Lt), &[F32, F32]),
        ]
    };
    for (to, args) in [
        (F32, [F32, F32, F32]),
        (F32, [BOOL, F32, F64]),
        (F64, [BOOL, F32, F32]),
    ] {
        faulty!(Fault::Type { .. }, |_| [lt(), vec![op(to, select, &args)]]
            .concat());
    }
    assert_eq!(
        fault(|_| [lt(), vec![op(OTHER, select, &[BOOL, F32, F32])]].concat()),
        None
    );
    faulty!(Fault::Type { .. }, |_| vec![set(BOOL, Rhs::Const(1.0))]);
    faulty!(Fault::Type { .. }, |_| vec![set(F32, Rhs::Bits(1))]);
    faulty!(Fault::Type { .. }, |_| vec![set(
        BOOL,
        Rhs::Index(0.into())
    )]);
    faulty!(Fault::Type { .. }, |_| vec![set(
        I32,
        Rhs::Load(X, 0.into())
    )]);
    faulty!(Fault::Type { .. }, |_| vec![set(
        F32,
        Rhs::LoadBits(HALF, 0.into())
    )]);
    faulty!(Fault::Type { .. }, |_| vec![
        one(I32),
        Stmt::Store(Y, 0.into(), I32)
    ]);
    faulty!(Fault::Type { .. }, |_| vec![
        one(F32),
        Stmt::StoreBits(HALF, 0.into(), F32)
    ]);
}

#[test]
fn operations_have_their_operands() {
    faulty!(
        Fault::Arity {
            wanted: 3,
            found: 1,
            ..
        },
        |_| vec![one(F32), op(F32, LoopOp::Fma, &[F32])]
    );
    faulty!(Fault::ComplexOp("re"), |_| vec![
        one(F32),
        op(F32, LoopOp::Math(Op::Re), &[F32])
    ]);
    faulty!(Fault::Shift { bits: 32, .. }, |_| vec![
        one(I32),
        op(I32, LoopOp::Shr(32), &[I32])
    ]);
}

#[test]
fn buffers_are_used_as_declared() {
    faulty!(Fault::ReadOnly(_), |_| vec![
        one(F32),
        Stmt::Store(X, 0.into(), F32)
    ]);
    faulty!(Fault::NotHalf { .. }, |_| vec![set(
        I32,
        Rhs::LoadBits(X, 0.into())
    )]);
    faulty!(Fault::NotHalf { .. }, |_| vec![
        one(I32),
        Stmt::StoreBits(Y, 0.into(), I32)
    ]);
    faulty!(Fault::Undeclared { what: "buffer", .. }, |_| vec![set(
        F32,
        Rhs::Load(Buf(9), 0.into())
    )]);
    faulty!(
        Fault::Undeclared {
            what: "register",
            ..
        },
        |_| vec![one(Reg(99))]
    );
    let initial = |p: &mut Parts| {
        p.proc.buffers[1].role = Role::Initial(selscan_dsl::StateId(0));
        vec![one(F32), Stmt::Store(Y, 0.into(), F32)]
    };
    faulty!(Fault::ReadOnly(_), initial);
}

#[test]
fn sizes_are_known_before_the_loops() {
    faulty!(Fault::NotConstant { .. }, |p| {
        let len = p.item.into();
        let scratch = BufferDecl {
            name: "s".into(),
            role: Role::Scratch,
            dtype: Dtype::F32,
            len,
        };
        p.proc.buffers.push(scratch);
        vec![]
    });
    let mut p = parts();
    p.proc.items = p.item.into();
    assert!(matches!(
        verify(&p.proc).unwrap_err().fault,
        Fault::NotConstant { .. }
    ));
}

#[test]
fn a_fault_names_its_proc() {
    let mut p = parts();
    p.proc.body = vec![for_(
        p.item,
        LoopKind::Core,
        0,
        extent(0),
        vec![Stmt::Store(Y, 0.into(), F32)],
    )];
    let text = verify(&p.proc).unwrap_err().to_string();
    assert_eq!(
        text,
        "proc sample is malformed: r0 may be read before it is assigned"
    );
}

#[test]
fn operands_come_from_lanes_that_are_there() {
    let shuffle = |k| op(Reg(1), LoopOp::ShuffleUp(k), &[Reg(0)]);
    let zero = || Stmt::Set(Reg(0), Rhs::Const(0.0));
    faulty!(Fault::NoLane(_), |_| vec![zero(), shuffle(1)]);
    faulty!(Fault::NoLane(_), |p| vec![lanes(
        p.lane,
        vec![zero(), shuffle(64)]
    )]);
}

#[test]
fn a_row_is_fetched_before_it_is_taken_and_as_wide_as_an_access() {
    faulty!(Fault::NotFetched(0), |p| {
        p.proc.rows = vec![(Dtype::F32, 2)];
        vec![Stmt::Take(vec![Reg(0), Reg(0)], Row(0))]
    });
    faulty!(Fault::Undeclared { what: "row", .. }, |_| vec![Stmt::Take(
        vec![],
        Row(3)
    )]);
    faulty!(Fault::Row { count: 3, .. }, |_| vec![Stmt::LoadRow(
        vec![Reg(0); 3],
        Buf(0),
        Ix::Const(0)
    )]);
    // The second item's begins at element 15.
    faulty!(Fault::Row { count: 4, .. }, |p| {
        p.proc.buffers.push(BufferDecl {
            name: "ours".into(),
            role: Role::Exchange,
            dtype: Dtype::F32,
            len: Ix::Const(15),
        });
        let own = Buf(p.proc.buffers.len() as u32 - 1);
        vec![Stmt::LoadRow(vec![Reg(0); 4], own, Ix::Const(0))]
    });
}

#[test]
fn lanes_meet_between_a_store_and_a_load_of_another() {
    let with = |body: &dyn Fn(Stmt, Stmt, Var) -> Vec<Stmt>| {
        fault(|p| {
            p.proc.buffers.push(BufferDecl {
                name: "ours".into(),
                role: Role::Exchange,
                dtype: Dtype::F32,
                len: Ix::Const(4),
            });
            let (buf, at) = (Buf(3), Ix::Var(p.lane));
            let load = set(OTHER, Rhs::Load(buf, at.clone()));
            let turn = p.proc.var("turn");
            let mut all = vec![one(F32)];
            all.extend(body(Stmt::Store(buf, at, F32), load, turn));
            vec![lanes(p.lane, all)]
        })
    };
    let unmet = || Some(Fault::Unmet("ours".into()));
    let found = with(&|store, load, _| vec![store, load]);
    assert_eq!(found, unmet());
    // A barrier in two parts is none for those who stored after they arrived.
    let found = with(&|store, load, _| vec![Stmt::Arrive, store, Stmt::Wait, load]);
    assert_eq!(found, unmet());
    for meeting in [Stmt::Meet, Stmt::Sync] {
        let found = with(&|store, load, _| vec![store, meeting.clone(), load]);
        assert_eq!(found, None);
    }
    // The next turn's load comes after this one's store.
    let turns = |body: Vec<Stmt>| with(&|_, _, turn| vec![serial(turn, body.clone())]);
    let (store, load) = (
        Stmt::Store(Buf(3), Ix::Const(1), F32),
        set(OTHER, Rhs::Load(Buf(3), Ix::Const(2))),
    );
    assert_eq!(turns(vec![load.clone(), store.clone()]), unmet());
    // But for elements that each turn updates in place.
    let own = set(OTHER, Rhs::Load(Buf(3), Ix::Const(1)));
    assert_eq!(turns(vec![own.clone(), store.clone()]), None);
    assert_eq!(turns(vec![own, load.clone(), store.clone()]), unmet());
    assert_eq!(turns(vec![Stmt::Meet, load, store]), None);
    // A loop that has no turn is no meeting.
    let found = with(&|store, load, turn| vec![store, serial(turn, vec![Stmt::Meet]), load]);
    assert_eq!(found, unmet());
}
