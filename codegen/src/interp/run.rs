//! The machine: variables, registers, buffers.

use selscan_dsl::Op;

use super::InterpError;
use super::expr::{Code, Expr, Kind, Meeting, encode};
use super::memory::{read, write};
use super::races::Races;
use crate::dtype::Ty;
use crate::loop_ir::{LoopOp, Proc, Role};

/// The state of a proc as it runs. A register holds its bits.
pub(super) struct Machine<'a> {
    proc: &'a Proc,
    vars: Vec<i64>,
    /// Of the present lane.
    regs: Vec<u64>,
    lockstep: Option<Lockstep>,
    /// Which lane is running, where several are in lockstep: each has scratch memory of its own.
    lane: usize,
    buffers: Vec<Option<Vec<u8>>>,
    lens: Vec<usize>,
    races: Races,
}

/// Lanes that run together.
struct Lockstep {
    var: usize,
    /// The registers of every lane.
    regs: Vec<Vec<u64>>,
    /// The lanes that take part where a condition differs.
    active: Vec<usize>,
}

/// A register's bits as a number.
fn number(ty: Ty, bits: u64) -> f64 {
    match ty {
        Ty::F32 => f64::from(f32::from_bits(bits as u32)),
        Ty::F64 => f64::from_bits(bits),
        Ty::I32 => f64::from(bits as u32 as i32),
        Ty::I64 => bits as i64 as f64,
        Ty::Bool => bits as f64,
    }
}

impl<'a> Machine<'a> {
    pub(super) fn new(proc: &'a Proc, buffers: Vec<Option<Vec<u8>>>, lens: Vec<usize>) -> Self {
        let registers = proc.regs.len() + 8 * proc.rows.len();
        let (vars, regs) = (vec![0; proc.vars.len()], vec![0; registers]);
        Machine {
            proc,
            vars,
            regs,
            lockstep: None,
            lane: 0,
            buffers,
            races: Races::new(proc, &lens),
            lens,
        }
    }

    pub(super) fn into_buffers(self) -> Vec<Option<Vec<u8>>> {
        self.buffers
    }

    pub(super) fn run(&mut self, code: &[Code]) -> Result<(), InterpError> {
        code.iter().try_for_each(|c| match self.lockstep.take() {
            None => self.step(c),
            Some(lanes) => self.together(lanes, c),
        })
    }

    /// One statement in every lane that takes part.
    fn together(&mut self, mut lanes: Lockstep, code: &Code) -> Result<(), InterpError> {
        let first = lanes.active.first().copied().unwrap_or(0);
        self.vars[lanes.var] = first as i64;
        match code {
            // Bounds are the same in every lane.
            Code::Loop { .. } | Code::Meet(_) => {
                self.lockstep = Some(lanes);
                self.step(code)
            }
            Code::If {
                lhs,
                rhs,
                then,
                els,
            } => {
                let all = lanes.active.clone();
                let mut sides = [Vec::new(), Vec::new()];
                for &lane in &all {
                    self.vars[lanes.var] = lane as i64;
                    let holds = self.eval(lhs)? < self.eval(rhs)?;
                    sides[usize::from(!holds)].push(lane);
                }
                for (side, body) in sides.into_iter().zip([then, els]) {
                    if side.is_empty() {
                        continue;
                    }
                    lanes.active = side;
                    self.lockstep = Some(lanes);
                    self.run(body)?;
                    lanes = match self.lockstep.take() {
                        Some(lanes) => lanes,
                        None => return Ok(()),
                    };
                }
                lanes.active = all;
                self.lockstep = Some(lanes);
                Ok(())
            }
            Code::Op {
                reg,
                op,
                args,
                math,
                from: from_ty,
                to,
                ..
            } if op.is_shuffle() => {
                let count = lanes.regs.len();
                let from = |lane: usize| match *op {
                    LoopOp::ShuffleUp(k) | LoopOp::FmaUp(k) | LoopOp::MulUp(k) => {
                        lane.checked_sub(usize::from(k)).unwrap_or(lane)
                    }
                    LoopOp::ShuffleXor(k) => lane ^ usize::from(k),
                    LoopOp::Broadcast(k) => usize::from(k),
                    _ => lane,
                };
                let value = |lane: usize| {
                    let (other, own) = (from(lane).min(count - 1), &lanes.regs[lane]);
                    let (x, there) = (own[args[0]], &lanes.regs[other]);
                    match *op {
                        LoopOp::FmaUp(_) if other == lane => own[args[1]],
                        LoopOp::MulUp(_) if other == lane => x,
                        LoopOp::FmaUp(_) => {
                            let terms = [x, there[args[1]], own[args[1]]];
                            apply(LoopOp::Fma, *math, (*from_ty, *to), &terms)
                        }
                        LoopOp::MulUp(_) => {
                            let product = number(*from_ty, x) * number(*from_ty, there[args[0]]);
                            encode(*to, product)
                        }
                        _ => there[args[0]],
                    }
                };
                let values: Vec<u64> = (0..count).map(value).collect();
                for &lane in &lanes.active {
                    lanes.regs[lane][*reg] = values[lane];
                }
                self.lockstep = Some(lanes);
                Ok(())
            }
            _ => {
                for i in 0..lanes.active.len() {
                    let lane = lanes.active[i];
                    self.vars[lanes.var] = lane as i64;
                    self.lane = lane;
                    std::mem::swap(&mut self.regs, &mut lanes.regs[lane]);
                    let done = self.step(code);
                    self.lane = 0;
                    std::mem::swap(&mut self.regs, &mut lanes.regs[lane]);
                    done?;
                }
                self.lockstep = Some(lanes);
                Ok(())
            }
        }
    }

    fn eval(&self, expr: &Expr) -> Result<i64, InterpError> {
        expr.eval(&self.vars).ok_or_else(|| InterpError::Overflow {
            proc: self.proc.name.clone(),
            what: "an index".to_owned(),
        })
    }

    /// Where an element lies, if it does.
    fn at(&self, buf: usize, at: &Expr) -> Result<usize, InterpError> {
        let index = self.eval(at)?;
        match usize::try_from(index) {
            Ok(i) if i < self.lens[buf] => match self.proc.buffers[buf].role {
                Role::Scratch => Ok(i + self.lane * self.lens[buf]),
                _ => Ok(i),
            },
            _ => Err(InterpError::OutOfBounds {
                proc: self.proc.name.clone(),
                buffer: self.proc.buffers[buf].name.clone(),
                index,
                len: self.lens[buf],
            }),
        }
    }

    /// An access to what the lanes of an item have in common must be ordered with those of the others.
    fn ordered(&self, fits: bool, buf: usize, index: usize) -> Result<(), InterpError> {
        match fits {
            true => Ok(()),
            false => Err(InterpError::Race {
                proc: self.proc.name.clone(),
                buffer: self.proc.buffers[buf].name.clone(),
                index,
            }),
        }
    }

    fn read(&mut self, buf: usize, at: usize) -> Result<(), InterpError> {
        let fits = self.races.read(buf, at, self.lane);
        self.ordered(fits, buf, at)
    }

    fn write(&mut self, buf: usize, at: usize) -> Result<(), InterpError> {
        let fits = self.races.write(buf, at, self.lane);
        self.ordered(fits, buf, at)
    }

    fn bytes(&mut self, buf: usize) -> &mut [u8] {
        self.buffers[buf].as_deref_mut().unwrap_or_default()
    }

    fn step(&mut self, code: &Code) -> Result<(), InterpError> {
        match code {
            Code::Loop {
                var,
                lo,
                hi,
                step,
                body,
                kind,
            } => {
                let (lo, hi) = (self.eval(lo)?, self.eval(hi)?);
                self.turns(*var, (lo, hi, *step), body, kind)?;
            }
            Code::Let(var, ix) => self.vars[*var] = self.eval(ix)?,
            Code::Const(reg, bits) => self.regs[*reg] = *bits,
            Code::Index(reg, ix, ty) => {
                let value = self.eval(ix)?;
                self.regs[*reg] = match ty {
                    Ty::F32 => u64::from((value as f32).to_bits()),
                    Ty::F64 => (value as f64).to_bits(),
                    Ty::I32 | Ty::Bool => u64::from(value as u32),
                    Ty::I64 => value as u64,
                };
            }
            Code::Row(buf, at, count) => {
                let index = self.eval(at)?;
                if index % count != 0 {
                    return Err(InterpError::Row {
                        proc: self.proc.name.clone(),
                        buffer: self.proc.buffers[*buf].name.clone(),
                        index,
                        count: *count,
                    });
                }
            }
            Code::Meet(meeting) => match meeting {
                Meeting::Both => self.races.meet(),
                Meeting::Arrive => self.races.arrive(),
                Meeting::Wait => self.races.wait(),
            },
            Code::Load { reg, ty, buf, at } => {
                let at = self.at(*buf, at)?;
                self.read(*buf, at)?;
                let dtype = self.proc.buffers[*buf].dtype;
                self.regs[*reg] = encode(*ty, read(self.bytes(*buf), dtype, at));
            }
            Code::LoadBits { reg, buf, at } => {
                let at = self.at(*buf, at)?;
                self.read(*buf, at)?;
                let bytes = self.bytes(*buf);
                self.regs[*reg] = u64::from(u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]));
            }
            Code::Op {
                reg,
                to,
                op,
                from,
                args,
                math,
                count,
            } => {
                let values = args.map(|a| self.regs.get(a).copied().unwrap_or(0));
                self.regs[*reg] = apply(*op, *math, (*from, *to), &values[..*count]);
            }
            Code::Store {
                buf,
                at,
                reg,
                ty,
                dtype,
            } => {
                let at = self.at(*buf, at)?;
                self.write(*buf, at)?;
                let value = number(*ty, self.regs[*reg]);
                write(self.bytes(*buf), *dtype, at, value);
            }
            Code::StoreBits { buf, at, reg } => {
                let at = self.at(*buf, at)?;
                self.write(*buf, at)?;
                let bits = (self.regs[*reg] as u16).to_le_bytes();
                self.bytes(*buf)[2 * at..2 * at + 2].copy_from_slice(&bits);
            }
            Code::Copy { to, at, from, ix } => {
                let (at, ix) = (self.at(*to, at)?, self.at(*from, ix)?);
                let dtype = self.proc.buffers[*to].dtype;
                let value = read(self.bytes(*from), dtype, ix);
                write(self.bytes(*to), dtype, at, value);
            }
            Code::If {
                lhs,
                rhs,
                then,
                els,
            } => {
                let holds = self.eval(lhs)? < self.eval(rhs)?;
                self.run(if holds { then } else { els })?;
            }
        }
        Ok(())
    }

    fn turns(
        &mut self,
        var: usize,
        (lo, hi, step): (i64, i64, i64),
        body: &[Code],
        kind: &Kind,
    ) -> Result<(), InterpError> {
        if let Kind::Lockstep = kind {
            let width = usize::try_from(hi - lo).unwrap_or(0);
            self.lockstep = Some(Lockstep {
                var,
                regs: vec![self.regs.clone(); width],
                active: (0..width).collect(),
            });
            let done = self.run(body);
            self.lockstep = None;
            return done;
        }
        let before: Vec<u64> = match kind {
            Kind::Lane(assigned) => assigned.iter().map(|&r| self.regs[r]).collect(),
            Kind::Core | Kind::Serial | Kind::Lockstep => Vec::new(),
        };
        let mut at = lo;
        while at < hi {
            self.vars[var] = at;
            match kind {
                Kind::Core => {
                    self.forget_scratch();
                    self.races.meet();
                }
                Kind::Lane(assigned) => {
                    for (&r, &bits) in assigned.iter().zip(&before) {
                        self.regs[r] = bits;
                    }
                }
                Kind::Serial | Kind::Lockstep => {}
            }
            self.run(body)?;
            let Some(next) = at.checked_add(step) else {
                break;
            };
            at = next;
        }
        Ok(())
    }

    /// Scratch memory is NaN at the start of an item: one that reads what another left is seen.
    fn forget_scratch(&mut self) {
        for (buffer, decl) in self.buffers.iter_mut().zip(&self.proc.buffers) {
            if let (Some(buffer), Role::Scratch | Role::Shared | Role::Exchange) =
                (buffer, decl.role)
            {
                buffer.fill(u8::MAX);
            }
        }
    }
}

/// An operation on the bits of registers.
fn apply(op: LoopOp, math: fn(&[f64]) -> f64, (from, to): (Ty, Ty), x: &[u64]) -> u64 {
    match op {
        LoopOp::Math(Op::Select) => {
            if x[0] != 0 {
                x[1]
            } else {
                x[2]
            }
        }
        // f64 has more than twice the bits of f32: rounding its sum, product, quotient or root rounds once.
        LoopOp::Math(_) => {
            let mut values = [0.0; 3];
            for (value, bits) in values.iter_mut().zip(x) {
                *value = number(from, *bits);
            }
            encode(to, math(&values[..x.len()]))
        }
        LoopOp::Fma => match from {
            Ty::F32 => {
                let [a, b, c] = [x[0], x[1], x[2]].map(|bits| f32::from_bits(bits as u32));
                u64::from(a.mul_add(b, c).to_bits())
            }
            _ => {
                let [a, b, c] = [x[0], x[1], x[2]].map(f64::from_bits);
                a.mul_add(b, c).to_bits()
            }
        },
        LoopOp::Round => encode(to, number(from, x[0]).round_ties_even()),
        // Those of several lanes are run by `together`.
        LoopOp::ShuffleUp(_) | LoopOp::ShuffleXor(_) | LoopOp::Broadcast(_) => x[0],
        LoopOp::FmaUp(_) | LoopOp::MulUp(_) => x[x.len() - 1],
        LoopOp::Recip => encode(to, 1.0 / number(from, x[0])),
        LoopOp::Copy | LoopOp::Bitcast => x[0],
        LoopOp::Convert | LoopOp::FromInt => match (from, to) {
            (Ty::I64, Ty::F64) => (x[0] as i64 as f64).to_bits(),
            (Ty::I32, Ty::F32) => u64::from((x[0] as u32 as i32 as f32).to_bits()),
            _ => encode(to, number(from, x[0])),
        },
        LoopOp::IAdd => wrap(to, x[0].wrapping_add(x[1])),
        LoopOp::ISub => wrap(to, x[0].wrapping_sub(x[1])),
        LoopOp::And => x[0] & x[1],
        LoopOp::Or => x[0] | x[1],
        LoopOp::Shl(k) => wrap(to, x[0] << k),
        LoopOp::Shr(k) => x[0] >> k,
        LoopOp::Sar(k) => wrap(to, (signed(from, x[0]) >> k) as u64),
        LoopOp::ILt => u64::from(signed(from, x[0]) < signed(from, x[1])),
    }
}

/// An integer register's bits, sign-extended.
fn signed(ty: Ty, bits: u64) -> i64 {
    if ty == Ty::I64 {
        bits as i64
    } else {
        i64::from(bits as u32 as i32)
    }
}

/// The bits that fit in the register.
fn wrap(ty: Ty, bits: u64) -> u64 {
    if ty == Ty::I64 {
        bits
    } else {
        bits & 0xffff_ffff
    }
}
