//! Random procs that are in the grammar and stay inside their buffers.

use std::collections::BTreeMap;

use selscan_codegen::loop_ir::{
    Buf, BufferDecl, Ix, LoopKind, LoopOp, Proc, Reg, Rhs, Role, Seats, Stmt, Var,
};
use selscan_codegen::{Dtype, Ty};
use selscan_dsl::{AxisId, InputId, Op, StateId};

/// Elements of a buffer that belong to one item.
const ROW: i64 = 64;

/// A linear congruential generator: the same procs on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    fn number(&mut self) -> f64 {
        let unit = self.below(1 << 20) as f64 / f64::from(1 << 20) - 0.5;
        unit * self.pick(&[0.1, 1.0, 8.0, 200.0])
    }
}

/// By buffer: the (offset, step) at which lanes touch it.
type Touched = BTreeMap<u32, (i64, i64)>;

struct Writer {
    random: Random,
    proc: Proc,
    item: Var,
    /// Loop variables in scope and their largest value.
    vars: Vec<(Var, i64)>,
    /// The Lane loop around, and the one (offset, step) at which its lanes touch each buffer that they write, so that
    /// no lane sees another's element.
    lane: Option<(Var, Touched)>,
    /// How many serial loops are around the Lane loop, or here.
    serials: usize,
    /// Registers that are assigned here.
    set: Vec<Reg>,
}

/// A proc, its inputs and extents.
pub fn random(seed: u64) -> (Proc, super::Inputs, Vec<i64>) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let extents = vec![1 + random.below(3) as i64, random.below(5) as i64];
    let items = Ix::Extent(AxisId(0));
    let row = items.clone() * Ix::Const(ROW);
    let mut proc = Proc {
        name: format!("random{seed}"),
        extents: vec![Some("B".into()), Some("L".into())],
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
        items: items.clone(),
        body: Vec::new(),
    };
    let mut inputs = Vec::new();
    let mut buffer = |role, dtype, len: &Ix| {
        let name = format!("b{}", proc.buffers.len());
        proc.buffers.push(BufferDecl {
            name,
            role,
            dtype,
            len: len.clone(),
        });
    };
    for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
        let role = Role::Input(InputId(i as u32));
        buffer(role, dtype, &row);
        inputs.push((
            role,
            dtype,
            (0..ROW * extents[0]).map(|_| random.number()).collect(),
        ));
    }
    buffer(Role::Initial(StateId(0)), Dtype::F32, &row);
    inputs.push((
        Role::Initial(StateId(0)),
        Dtype::F32,
        (0..ROW * extents[0]).map(|_| random.number()).collect(),
    ));
    for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
        buffer(Role::Output(i as u32), dtype, &row);
    }
    buffer(Role::Scratch, Dtype::F32, &Ix::Const(ROW));
    buffer(
        Role::Scratch,
        Dtype::Bf16,
        &(Ix::Const(ROW) + Ix::Extent(AxisId(1))),
    );
    let item = proc.var("item");
    let mut w = Writer {
        random,
        proc,
        item,
        vars: Vec::new(),
        lane: None,
        serials: 0,
        set: Vec::new(),
    };
    let mut body = w.fill_scratch();
    body.extend(w.block(0, 10));
    w.proc.body = vec![Stmt::For {
        var: item,
        kind: LoopKind::Core,
        lo: 0.into(),
        hi: items,
        step: 1,
        body,
    }];
    (w.proc, inputs, extents)
}

impl Writer {
    /// Scratch memory holds anything when an item starts: here, numbers.
    fn fill_scratch(&mut self) -> Vec<Stmt> {
        let (var, reg) = (self.proc.var("fill"), self.proc.reg(Ty::F32));
        let body = vec![
            Stmt::Set(reg, Rhs::Index(Ix::from(var) * Ix::Const(3))),
            Stmt::Store(Buf(9), var.into(), reg),
            Stmt::Store(Buf(10), var.into(), reg),
        ];
        let (lo, hi) = (Ix::Const(0), Ix::Const(ROW));
        vec![Stmt::For {
            var,
            kind: LoopKind::Serial,
            lo,
            hi,
            step: 1,
            body,
        }]
    }

    /// Where in its row: a sum of variables that stays below the row's length.
    fn within(&mut self) -> Ix {
        let mut ix = Ix::Const(0);
        let mut room = ROW - 1;
        for (var, most) in self.vars.clone() {
            let k = self.random.pick(&[0, 1, 1, 2, 4, 5]);
            if k * most <= room {
                room -= k * most;
                ix = ix + Ix::from(var) * Ix::Const(k);
            }
        }
        match self.random.below(8) {
            0 => (ix + Ix::Const(3)).min(Ix::Const(ROW - 1)),
            1 => ix / Ix::Const(3),
            2 => Ix::Const(ROW - 1) - ix,
            _ => ix + Ix::Const(self.random.below(room as usize + 1) as i64),
        }
    }

    /// An index into a buffer: of the item's row, or of scratch memory.
    fn at(&mut self, buf: u32) -> Ix {
        let written = !matches!(
            self.proc.buffer(Buf(buf)).role,
            Role::Input(_) | Role::Initial(_)
        );
        let offsets = (
            self.random.below(20) as i64,
            self.random.pick(&[1, 1, 1, 3]),
        );
        let within = match &mut self.lane {
            Some((lane, at)) if written => {
                let (offset, step) = at.entry(buf).or_insert(offsets);
                Ix::from(*lane) * Ix::Const(*step) + Ix::Const(*offset)
            }
            _ => self.within(),
        };
        if self.proc.buffer(Buf(buf)).role == Role::Scratch {
            within
        } else {
            Ix::from(self.item) * Ix::Const(ROW) + within
        }
    }

    fn register(&mut self, ty: Ty) -> Option<Reg> {
        let fitting: Vec<Reg> = self
            .set
            .iter()
            .copied()
            .filter(|r| self.proc.ty(*r) == ty)
            .collect();
        (!fitting.is_empty()).then(|| self.random.pick(&fitting))
    }

    /// A register to assign: often a new one, else one that lives on.
    fn target(&mut self, ty: Ty) -> Reg {
        // A lane loop takes away what it assigns; in a serial loop, the next turn might read that.
        let taken_away = self.lane.is_some() && self.serials > 0;
        match self.register(ty) {
            Some(old) if !taken_away && self.random.below(3) == 0 => old,
            _ => self.proc.reg(ty),
        }
    }

    /// A register of that type, assigned if there is none.
    fn operand(&mut self, out: &mut Vec<Stmt>, ty: Ty) -> Reg {
        if let Some(reg) = self.register(ty)
            && self.random.below(6) != 0
        {
            return reg;
        }
        let rhs = match (ty, self.random.below(3)) {
            (Ty::Bool, _) => {
                let of = self.random.pick(&[Ty::F32, Ty::F64]);
                let args = vec![self.operand(out, of), self.operand(out, of)];
                let op = self
                    .random
                    .pick(&[Op::Lt, Op::Le, Op::Gt, Op::Ge, Op::Eq, Op::Ne]);
                Rhs::Op(LoopOp::Math(op), args)
            }
            (Ty::I32 | Ty::I64, 0) => Rhs::Bits(self.random.below(1 << 30) as u64 * 5),
            (Ty::F32 | Ty::F64, 0) => Rhs::Const(self.random.number()),
            (_, 1) => Rhs::Index(self.within()),
            (Ty::I32, _) => {
                let buf = self.random.pick(&[2, 3, 10]);
                Rhs::LoadBits(Buf(buf), self.at(buf))
            }
            (Ty::I64, _) => Rhs::Index(self.within()),
            (Ty::F32 | Ty::F64, _) => {
                let buf = self.random.pick(&[0, 0, 1, 2, 3, 4, 9]);
                Rhs::Load(Buf(buf), self.at(buf))
            }
        };
        let reg = self.proc.reg(ty);
        out.push(Stmt::Set(reg, rhs));
        self.set.push(reg);
        reg
    }

    fn operation(&mut self, out: &mut Vec<Stmt>) {
        let float = self.random.pick(&[Ty::F32, Ty::F32, Ty::F64]);
        let int = self.random.pick(&[Ty::I32, Ty::I64]);
        let other = if float == Ty::F32 { Ty::F64 } else { Ty::F32 };
        let bits = float.bits();
        let shift = self.random.below(31) as u8;
        use LoopOp::{
            And, Bitcast, Convert, Copy, Fma, FromInt, IAdd, ILt, ISub, Math, Or, Round, Sar, Shl,
            Shr,
        };
        let (to, op, from): (Ty, LoopOp, Vec<Ty>) = match self.random.below(16) {
            0 => (float, Fma, vec![float; 3]),
            1 => (float, Round, vec![float]),
            2 => (float, Convert, vec![other]),
            3 => (float, FromInt, vec![bits]),
            4 => (float, Bitcast, vec![bits]),
            5 => (int, self.random.pick(&[IAdd, ISub, And, Or]), vec![int; 2]),
            6 => (
                int,
                self.random.pick(&[Shl(shift), Shr(shift), Sar(shift)]),
                vec![int],
            ),
            7 => (Ty::Bool, ILt, vec![int; 2]),
            8 => (float, Math(Op::Select), vec![Ty::Bool, float, float]),
            9 => (int, Math(Op::Select), vec![Ty::Bool, int, int]),
            10 => (float, Copy, vec![float]),
            11 => (Ty::Bool, Copy, vec![Ty::Bool]),
            12 => (
                float,
                Math(self.random.pick(&[Op::Min, Op::Max, Op::Div])),
                vec![float; 2],
            ),
            13 => {
                let op = self.random.pick(&[
                    Op::Exp2,
                    Op::Exp,
                    Op::Tanh,
                    Op::Softplus,
                    Op::Floor,
                    Op::Abs,
                    Op::Sin,
                ]);
                (float, Math(op), vec![float])
            }
            _ => (
                float,
                Math(self.random.pick(&[Op::Add, Op::Sub, Op::Mul])),
                vec![float; 2],
            ),
        };
        let args = from.into_iter().map(|ty| self.operand(out, ty)).collect();
        let reg = self.target(to);
        out.push(Stmt::Set(reg, Rhs::Op(op, args)));
        self.set.push(reg);
    }

    /// Stores: outputs in the item's own row; in lanes, at the lane's own element.
    fn store(&mut self, out: &mut Vec<Stmt>) {
        let buf = self.random.pick(&[5, 5, 6, 7, 8, 9, 10]);
        let as_bits = matches!(self.proc.buffer(Buf(buf)).dtype, Dtype::Bf16 | Dtype::F16)
            && self.random.below(2) == 0;
        let ty = if as_bits {
            Ty::I32
        } else {
            self.random.pick(&[Ty::F32, Ty::F64])
        };
        let reg = self.operand(out, ty);
        let at = self.at(buf);
        out.push(if as_bits {
            Stmt::StoreBits(Buf(buf), at, reg)
        } else {
            Stmt::Store(Buf(buf), at, reg)
        });
    }

    fn block(&mut self, depth: usize, len: usize) -> Vec<Stmt> {
        let mut out = Vec::new();
        let (vars, set) = (self.vars.len(), self.set.clone());
        for _ in 0..1 + self.random.below(len) {
            match self.random.below(10) {
                0 | 1 if depth < 3 => self.serial(&mut out, depth),
                2 | 3 if self.lane.is_none() => self.lanes(&mut out, depth),
                4 if depth < 3 => self.choice(&mut out, depth),
                5 if self.lane.is_none() && !self.vars.is_empty() => {
                    let (from, most) = self.random.pick(&self.vars.clone());
                    let var = self.proc.var(format!("v{}", self.proc.vars.len()));
                    out.push(Stmt::Let(var, Ix::from(from) * Ix::Const(2)));
                    self.vars.push((var, 2 * most));
                }
                6 | 7 => self.store(&mut out),
                _ => self.operation(&mut out),
            }
        }
        self.vars.truncate(vars);
        // What the block assigned may not have been; what a lane loop in it took away is gone.
        if depth > 0 {
            self.set.retain(|r| set.contains(r));
        }
        out
    }

    fn serial(&mut self, out: &mut Vec<Stmt>, depth: usize) {
        let var = self.proc.var(format!("v{}", self.proc.vars.len()));
        // Run-time bounds are 0 to 4; their largest value is for the indices.
        let (lo, hi, most) = match self.random.below(4) {
            0 => (Ix::Const(0), Ix::Extent(AxisId(1)), 4),
            1 => (Ix::Const(1), Ix::Const(6), 5),
            2 => (Ix::Const(0), Ix::Extent(AxisId(1)).min(Ix::Const(3)), 3),
            _ => (Ix::Const(2), Ix::Const(2), 2),
        };
        let step = self.random.pick(&[1, 1, 2, 3]);
        self.vars.push((var, most));
        self.serials += usize::from(self.lane.is_none());
        let body = self.block(depth + 1, 6);
        self.serials -= usize::from(self.lane.is_none());
        self.vars.pop();
        out.push(Stmt::For {
            var,
            kind: LoopKind::Serial,
            lo,
            hi,
            step,
            body,
        });
    }

    fn lanes(&mut self, out: &mut Vec<Stmt>, depth: usize) {
        let var = self.proc.var(format!("lane{}", self.proc.vars.len()));
        let width = self.random.pick(&[2, 4, 4, 4, 8]);
        let lo = match self.random.pick(&[0, 0, 1]) {
            0 => Ix::Const(0),
            _ => self
                .vars
                .first()
                .map_or(Ix::Const(1), |(v, _)| Ix::from(*v)),
        };
        let start = match &lo {
            Ix::Const(k) => *k,
            _ => self.vars.first().map_or(0, |v| v.1),
        };
        if start > 6 {
            return;
        }
        let hi = lo.clone() + Ix::Const(i64::from(width));
        self.lane = Some((var, BTreeMap::new()));
        self.vars.push((var, start + i64::from(width) - 1));
        let before = self.set.clone();
        let body = self.block(depth.max(1) + 1, 8);
        self.vars.pop();
        self.lane = None;
        // No lane's registers are left.
        let assigned = assigned(&body);
        self.set = before
            .into_iter()
            .filter(|r| !assigned.contains(r))
            .collect();
        out.push(Stmt::For {
            var,
            kind: LoopKind::Lane(width),
            lo,
            hi,
            step: 1,
            body,
        });
    }

    fn choice(&mut self, out: &mut Vec<Stmt>, depth: usize) {
        let lane = self.lane.as_ref().map(|l| l.0);
        let vars: Vec<Var> = self
            .vars
            .iter()
            .map(|v| v.0)
            .filter(|v| Some(*v) != lane)
            .collect();
        let lhs = if vars.is_empty() {
            Ix::from(self.item)
        } else {
            Ix::from(self.random.pick(&vars))
        };
        let rhs = Ix::Const(self.random.below(4) as i64);
        let then = self.block(depth + 1, 5);
        let els = self.block(depth + 1, 3);
        out.push(Stmt::If {
            lhs,
            rhs,
            then,
            els,
        });
    }
}

fn assigned(body: &[Stmt]) -> Vec<Reg> {
    body.iter()
        .flat_map(|stmt| match stmt {
            Stmt::Set(reg, _) => vec![*reg],
            Stmt::For { body, .. } => assigned(body),
            Stmt::If { then, els, .. } => [assigned(then), assigned(els)].concat(),
            _ => Vec::new(),
        })
        .collect()
}
