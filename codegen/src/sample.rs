//! Hand-written procs that the tests of several modules share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use selscan_dsl::{AxisId, InputId, Op};

use crate::dtype::{Dtype, Ty};
use crate::loop_ir::{
    Buf, BufferDecl, Ix, LoopKind, LoopOp, Proc, Reg, Rhs, Role, Seats, Stmt, Var,
};

/// The extent of axis `i`.
pub(crate) fn extent(i: u8) -> Ix {
    Ix::Extent(AxisId(i))
}

/// An input buffer.
pub(crate) fn input(i: u32, name: &str, dtype: Dtype, len: Ix) -> BufferDecl {
    BufferDecl {
        name: name.into(),
        role: Role::Input(InputId(i)),
        dtype,
        len,
    }
}

/// An output buffer.
pub(crate) fn output(i: u32, name: &str, dtype: Dtype, len: Ix) -> BufferDecl {
    BufferDecl {
        name: name.into(),
        role: Role::Output(i),
        dtype,
        len,
    }
}

/// A proc without statements over `items` items, with extents `L`, `D`, `N`.
pub(crate) fn empty(items: Ix) -> Proc {
    Proc {
        name: "sample".into(),
        extents: ["L", "D", "N"].map(|n| Some(n.to_owned())).to_vec(),
        buffers: Vec::new(),
        multiples: vec![],
        rows: vec![],
        narrow: false,
        threads: 128,
        resident: 0,
        exp2: 0,
        seats: Seats::Neighbours,
        full: false,
        vars: Vec::new(),
        regs: Vec::new(),
        items,
        body: Vec::new(),
    }
}

/// A loop over `var` by 1.
pub(crate) fn for_(
    var: Var,
    kind: LoopKind,
    lo: impl Into<Ix>,
    hi: impl Into<Ix>,
    body: Vec<Stmt>,
) -> Stmt {
    Stmt::For {
        var,
        kind,
        lo: lo.into(),
        hi: hi.into(),
        step: 1,
        body,
    }
}

/// Appends `new = op(args)` of the type `ty`.
pub(crate) fn op(proc: &mut Proc, out: &mut Vec<Stmt>, ty: Ty, op: LoopOp, args: &[Reg]) -> Reg {
    let reg = proc.reg(ty);
    out.push(Stmt::Set(reg, Rhs::Op(op, args.to_vec())));
    reg
}

/// Appends `new = buf[ix]` of the type `ty`.
pub(crate) fn load(proc: &mut Proc, out: &mut Vec<Stmt>, ty: Ty, buf: u32, ix: Ix) -> Reg {
    let reg = proc.reg(ty);
    out.push(Stmt::Set(reg, Rhs::Load(Buf(buf), ix)));
    reg
}

/// `out[i] = f(x[i])` for i < L, on `lanes` lanes (L a multiple of it) or on scalars.
pub(crate) fn map(f: LoopOp, arity: u32, ty: Ty, dtype: Dtype, lanes: Option<u32>) -> Proc {
    let mut p = empty(extent(0) / Ix::Const(i64::from(lanes.unwrap_or(1))));
    for i in 0..arity {
        p.buffers.push(input(i, &format!("x{i}"), dtype, extent(0)));
    }
    p.buffers.push(output(0, "y", dtype, extent(0)));
    let item = p.var("item");
    let lane = p.var("lane");
    let at = match lanes {
        Some(w) => Ix::from(item) * Ix::Const(i64::from(w)) + Ix::from(lane),
        None => Ix::from(item),
    };
    let mut body = Vec::new();
    let args: Vec<Reg> = (0..arity)
        .map(|i| load(&mut p, &mut body, ty, i, at.clone()))
        .collect();
    let y = op(&mut p, &mut body, ty, f, &args);
    body.push(Stmt::Store(Buf(arity), at, y));
    let body = match lanes {
        Some(w) => vec![for_(lane, LoopKind::Lane(w), 0, i64::from(w), body)],
        None => body,
    };
    p.body = vec![for_(item, LoopKind::Core, 0, p.items.clone(), body)];
    p
}

/// Mamba's state loop as lowering writes it: an item is 4 channels; for each n over a tile of 64 steps
/// h = exp2(Δ·a)·h + Δu·b, y += c·h; Δ, Δu and y are parked in scratch memory.
pub(crate) fn selective_scan() -> Proc {
    let mut p = empty(extent(1) / Ix::Const(4));
    p.buffers = vec![
        input(0, "a", Dtype::F32, extent(1) * extent(2)),
        input(1, "b", Dtype::F32, extent(0) * extent(2)),
        input(2, "c", Dtype::F32, extent(0) * extent(2)),
        input(3, "delta", Dtype::F32, extent(0) * extent(1)),
        input(4, "u", Dtype::F32, extent(0) * extent(1)),
        output(0, "y", Dtype::F32, extent(0) * extent(1)),
        BufferDecl {
            name: "h".into(),
            role: Role::Scratch,
            dtype: Dtype::F32,
            len: extent(2) * Ix::Const(4),
        },
        BufferDecl {
            name: "tile".into(),
            role: Role::Scratch,
            dtype: Dtype::F32,
            len: Ix::Const(64 * 4 * 3),
        },
    ];
    let (item, t0, t, n, lane) = (
        p.var("item"),
        p.var("t0"),
        p.var("t"),
        p.var("n"),
        p.var("lane"),
    );
    let (d, tile) = (
        Ix::from(item) * Ix::Const(4),
        |k: i64, t: Var, lane: Var| {
            Ix::from(t) * Ix::Const(4) + Ix::from(lane) + Ix::Const(k * 256)
        },
    );
    let lanes = |body| for_(lane, LoopKind::Lane(4), 0, 4, body);
    // Δ, Δ·u, y = 0
    let mut park = Vec::new();
    let at = (Ix::from(t0) + Ix::from(t)) * extent(1) + d.clone() + Ix::from(lane);
    let delta = load(&mut p, &mut park, Ty::F32, 3, at.clone());
    let u = load(&mut p, &mut park, Ty::F32, 4, at.clone());
    let du = op(
        &mut p,
        &mut park,
        Ty::F32,
        LoopOp::Math(Op::Mul),
        &[delta, u],
    );
    let zero = p.reg(Ty::F32);
    park.push(Stmt::Set(zero, Rhs::Const(0.0)));
    park.push(Stmt::Store(Buf(7), tile(0, t, lane), delta));
    park.push(Stmt::Store(Buf(7), tile(1, t, lane), du));
    park.push(Stmt::Store(Buf(7), tile(2, t, lane), zero));
    // the state
    let h_at = Ix::from(n) * Ix::Const(4) + Ix::from(lane);
    let mut before = Vec::new();
    let h = load(&mut p, &mut before, Ty::F32, 6, h_at.clone());
    let a = load(
        &mut p,
        &mut before,
        Ty::F32,
        0,
        (d.clone() + Ix::from(lane)) * extent(2) + Ix::from(n),
    );
    let mut step = Vec::new();
    let row = (Ix::from(t0) + Ix::from(t)) * extent(2) + Ix::from(n);
    let delta = load(&mut p, &mut step, Ty::F32, 7, tile(0, t, lane));
    let x = op(
        &mut p,
        &mut step,
        Ty::F32,
        LoopOp::Math(Op::Mul),
        &[delta, a],
    );
    let decay = op(&mut p, &mut step, Ty::F32, LoopOp::Math(Op::Exp2), &[x]);
    let du = load(&mut p, &mut step, Ty::F32, 7, tile(1, t, lane));
    let b = load(&mut p, &mut step, Ty::F32, 1, row.clone());
    let driven = op(&mut p, &mut step, Ty::F32, LoopOp::Math(Op::Mul), &[du, b]);
    let kept = op(
        &mut p,
        &mut step,
        Ty::F32,
        LoopOp::Math(Op::Mul),
        &[decay, h],
    );
    step.push(Stmt::Set(
        h,
        Rhs::Op(LoopOp::Math(Op::Add), vec![driven, kept]),
    ));
    let c = load(&mut p, &mut step, Ty::F32, 2, row);
    let y = load(&mut p, &mut step, Ty::F32, 7, tile(2, t, lane));
    let out = op(&mut p, &mut step, Ty::F32, LoopOp::Math(Op::Mul), &[c, h]);
    let y = op(&mut p, &mut step, Ty::F32, LoopOp::Math(Op::Add), &[y, out]);
    step.push(Stmt::Store(Buf(7), tile(2, t, lane), y));
    let mut state = before;
    state.push(for_(t, LoopKind::Serial, 0, 64, step));
    state.push(Stmt::Store(Buf(6), h_at.clone(), h));
    // y
    let mut finish = Vec::new();
    let y = load(&mut p, &mut finish, Ty::F32, 7, tile(2, t, lane));
    finish.push(Stmt::Store(Buf(5), at, y));
    let mut clear = Vec::new();
    let zero = p.reg(Ty::F32);
    clear.push(Stmt::Set(zero, Rhs::Const(0.0)));
    clear.push(Stmt::Store(Buf(6), h_at, zero));

    let item_body = vec![
        for_(n, LoopKind::Serial, 0, extent(2), vec![lanes(clear)]),
        Stmt::For {
            var: t0,
            kind: LoopKind::Serial,
            lo: Ix::Const(0),
            hi: extent(0),
            step: 64,
            body: vec![
                for_(t, LoopKind::Serial, 0, 64, vec![lanes(park)]),
                for_(n, LoopKind::Serial, 0, extent(2), vec![lanes(state)]),
                for_(t, LoopKind::Serial, 0, 64, vec![lanes(finish)]),
            ],
        },
    ];
    p.body = vec![for_(item, LoopKind::Core, 0, p.items.clone(), item_body)];
    p
}
